"""What the subcommands of `clstm` do. Each module has a function `run(options)` that returns the exit code."""
