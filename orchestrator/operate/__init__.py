"""What an operator needs: doctor, backup, tracing, pictures' store, the epoch, and texts sealed at rest.

Others use `blobs`, `epoch.Epoch`, `seal.Seal`, `tracing`, `outage` and `remote`.
"""
