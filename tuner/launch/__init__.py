"""Workers on clusters: submit and cancel jobs of existing schedulers."""
