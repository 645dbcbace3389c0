"""From a trained model to a bundle: native library, parity check, manifest."""
