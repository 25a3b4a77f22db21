"""What a run reports while it trains: metrics, progress and where the time goes."""
