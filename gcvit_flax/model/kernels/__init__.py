"""The operations that dominate the running time, as functions; all but the max-pool have a hand-written gradient.

`plain` has reference implementations, and the tests compare values and gradients with them. `save_for_backward` marks
what the gradients read. `optimization_barrier` stands where a result must be written to memory once: XLA:CPU otherwise
computes chains of additions and normalizations again for each operation that reads them, and merges what the backward
pass is meant to compute again with what the forward pass computed. It only does so in programs compiled with
`gcvit_flax.devices.compiler_options`.
"""
