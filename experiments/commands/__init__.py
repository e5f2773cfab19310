"""The commands of `moon`, by what they work on. Heavy imports happen inside them: `moon --help` starts at once."""
