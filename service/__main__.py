"""`python -m service` is `rightrank`."""

from service.cli import app

app(prog_name="rightrank")
