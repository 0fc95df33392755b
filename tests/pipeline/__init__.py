"""What a pipeline is declared with: no sockets."""
