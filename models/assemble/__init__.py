"""From a program to its master."""
