"""The operations that take the time, as plain functions, each with a gradient of its own.

`plain` says what they compute; the tests hold both to the same values and gradients. `save_for_backward` marks what
their gradients read. `optimization_barrier` stands where a result must be written to memory once: XLA:CPU otherwise
computes chains of additions and normalizations again for each operation that reads them, and merges what the backward
pass is meant to compute again with what the forward pass computed. It only does so in programs compiled with
`gcvit_flax.devices.compiler_options`.
"""
