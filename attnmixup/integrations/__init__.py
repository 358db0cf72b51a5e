"""Both modules in a training that exists already; each file imports its framework only when it is itself imported."""
