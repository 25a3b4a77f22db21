"""What a run tells while it trains: metrics, progress and where the time goes."""
