"""The options of a training run, in the groups of --help: each class is a group, the comment above a field its help."""
