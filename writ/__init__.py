"""What the roles share: formats (what bytes mean), verdict (what follows from them), service (shells two roles need)."""
