"""The operations that take the time, as plain functions, each with a gradient of its own.

`reference` says what they compute; the tests hold both to the same values and gradients. `optimization_barrier` stands
where a result must be written to memory once: XLA:CPU otherwise computes chains of additions and normalisations again
for each of their users, and merges what the backward pass is meant to compute anew with what the forward pass did. It
only does so in programs compiled with `gcvit_flax.devices.compiler_options`.
"""
