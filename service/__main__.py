"""`python -m rightrank.service` is `rightrank`."""

from rightrank.service.cli import app

app(prog_name="rightrank")
