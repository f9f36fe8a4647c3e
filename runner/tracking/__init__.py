"""TensorBoard output of a run: scalars, hparams, pictures, text."""
