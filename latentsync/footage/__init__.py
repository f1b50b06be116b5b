"""Training clips on disk -> windows of faces and sound, shared by all that is trained on talking faces.

`listing` says what clips there are, `survey` which of them serve, `clip` opens one, `features` keeps what is
heard, `dataset` cuts windows out, `check` examines a collection before anybody trains on it.
"""
