"""What TensorBoard shows of a run: scalars, hparams, pictures, text."""
