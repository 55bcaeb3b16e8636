"""Workers on clusters: jobs of existing schedulers, submitted and cancelled."""
