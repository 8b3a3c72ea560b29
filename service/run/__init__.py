"""Processes: started, kept alive, stopped; and the demo."""
