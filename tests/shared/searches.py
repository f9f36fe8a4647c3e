"""Overrides of small searches."""

LR = "optimizer.lr=tag(log,interval(1e-3,1e-1))"
SMALL = (
    "hydra.launcher.workers=0",
    "data.limit=200",
    "model=mlp",
    "epochs=2",
    "threads=1",
    "log.tensorboard=false",
    "log.images=0",
    "name=s",
)
