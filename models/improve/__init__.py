"""What a plan, or a whole master, gains from fitting and training without labels."""
