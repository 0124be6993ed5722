"""What evidence is collected from: the runtime log now, boot and IMA logs and TEEs with their features."""
