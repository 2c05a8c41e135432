"""The page of `barm report`: from plain data to one HTML file. It reads no run, loads no network, asks no clock."""
