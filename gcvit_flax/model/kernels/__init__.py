"""The operations that take the time, each as a plain function with a gradient of its own; see `reference`."""
