"""The stages, one step function each: prepare -> posttrain -> embed -> application -> compare."""
