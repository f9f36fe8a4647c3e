"""Draws docs/pictures/schedules.png: every option of conf/schedule at its defaults, over 100 epochs.

python scripts/draw_schedules.py
"""

from pathlib import Path

from matplotlib.figure import Figure
from omegaconf import OmegaConf

from runner.core.targets import locate
from runner.core.timeline import Timeline
from runner.sweep.compose.explain import CONF

COLUMNS = 4
EPOCHS, STEPS = 100, 10
COSTS = [1 / (1 + epoch) ** 0.5 if epoch < 30 else 0.18 for epoch in range(EPOCHS)]  # told to the one that listens


def main() -> None:
    """One small picture an option."""
    files = sorted((CONF / "schedule").glob("*.yaml"))
    rows = -(-len(files) // COLUMNS)
    figure = Figure(figsize=(12, 2.35 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, sharex=True, sharey=True)
    for file, panel in zip(files, axes.flat):
        node = OmegaConf.to_container(OmegaConf.load(file))
        schedule = locate("schedule", node.pop("_target_"), [])(Timeline(EPOCHS * STEPS, STEPS), **node)
        values = []
        for step in range(EPOCHS * STEPS):
            values.append(schedule(step))
            if step % STEPS == STEPS - 1:
                schedule.observe({"val_loss": COSTS[step // STEPS]})
        panel.plot([step / STEPS for step in range(EPOCHS * STEPS)], values, color="#0072b2", linewidth=2)
        panel.set_title(file.stem, fontsize=13)
        panel.set_ylim(0, 1.05)
        panel.grid(color="#dfe3e8", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in list(axes.flat)[len(files) :]:
        panel.set_axis_off()
    for panel in axes[:, 0]:
        panel.set_ylabel("share of optimizer.lr")
    for panel in list(axes.flat)[len(files) - COLUMNS : len(files)]:
        panel.set_xlabel("epoch")
        panel.tick_params(labelbottom=True)
    path = Path(__file__).parent.parent / "docs" / "pictures" / "schedules.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
