package notify

import "log/slog"

// quiet is for servers whose clients hang up on purpose.
var quiet = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
