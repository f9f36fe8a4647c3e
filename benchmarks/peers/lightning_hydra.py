"""Lightning, swept by Hydra's multirun (basic or joblib launcher); DataLoader with per-sample transforms."""

import logging
import warnings
from pathlib import Path

import hydra
import lightning
import torch
from common import loaders, network, optimizer, tell
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn.functional import cross_entropy


class Classifier(lightning.LightningModule):
    def __init__(self, model: str, combination: dict):
        super().__init__()
        self.save_hyperparameters()
        self.model = network(model)
        self.combination = combination

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        loss = cross_entropy(self.model(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self._score("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self._score("test", batch)

    def _score(self, split: str, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        logits = self.model(images)
        accuracy = (logits.argmax(1) == labels).float().mean()
        self.log_dict({f"{split}_loss": cross_entropy(logits, labels), f"{split}_accuracy": accuracy})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer(self, self.combination)


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(config: DictConfig) -> None:
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning").setLevel(logging.ERROR)
    if config.threads:
        torch.set_num_threads(config.threads)
    lightning.seed_everything(0, verbose=False)
    combination = OmegaConf.to_container(OmegaConf.masked_copy(config, ["optimizer", "lr_scale", "weight_decay"]))
    folder = Path(HydraConfig.get().runtime.output_dir)
    train, val, test = loaders(config.root, config.limit)
    best = ModelCheckpoint(folder, monitor="val_accuracy", mode="max")
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=config.epochs,
        logger=TensorBoardLogger(folder, name="", version=""),
        callbacks=[best],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(config.model, combination), train, val)
    loss = trainer.callback_metrics["train_loss"].item()
    (scores,) = trainer.test(dataloaders=test, ckpt_path="best", verbose=False)
    accuracy = best.best_model_score.item()
    tell(combination, {"val_accuracy": accuracy, "test_accuracy": scores["test_accuracy"], "train_loss": loss})


if __name__ == "__main__":
    main()
