"""Gates: each turns one wire into an Action and a Decision back into that wire, and decides nothing."""
