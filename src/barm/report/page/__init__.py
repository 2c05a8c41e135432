"""The page of `barm report`: one HTML file from plain data. It reads no run, loads no network, asks no clock."""
