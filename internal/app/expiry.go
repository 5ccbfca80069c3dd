package app

import (
	"context"
	"log/slog"
	"time"

	"kexrelay/internal/config"
	"kexrelay/internal/expiry"
	"kexrelay/internal/telemetry"
)

const (
	// expiryEvery is the time between two looks at the files, expiryRepeat that between two warnings about one.
	expiryEvery  = time.Minute
	expiryRepeat = 24 * time.Hour
	// expiryAhead is how long before something expires it is warned of; of what is valid for a short time only, the last
	// third.
	expiryAhead = 14 * 24 * time.Hour
)

// expiries watches the files whose content expires. They are renewed while the process runs.
type expiries struct {
	files  []expiring
	show   func(telemetry.Credential, time.Time)
	logger *slog.Logger
}

type expiring struct {
	credential telemetry.Credential
	path       string
	// warned is when it was last warned of, and about is what.
	warned time.Time
	about  string
}

func newExpiries(cfg config.Serve, show func(telemetry.Credential, time.Time), logger *slog.Logger) *expiries {
	e := &expiries{show: show, logger: logger}
	for _, file := range []expiring{
		{credential: telemetry.CredentialNATSCreds, path: cfg.NATS.Creds},
		{credential: telemetry.CredentialNATSCert, path: cfg.NATS.TLSCert},
		{credential: telemetry.CredentialNATSCA, path: cfg.NATS.TLSCA},
		{credential: telemetry.CredentialKEXCA, path: cfg.KEX.CAFile},
	} {
		if file.path != "" {
			e.files = append(e.files, file)
		}
	}
	return e
}

// run looks at them now and then until ctx ends.
func (e *expiries) run(ctx context.Context) {
	for {
		e.look(ctx, time.Now())
		pause(ctx, expiryEvery)
		if ctx.Err() != nil {
			return
		}
	}
}

func (e *expiries) look(ctx context.Context, now time.Time) {
	for i := range e.files {
		file := &e.files[i]
		valid, err := expiry.Of(file.path)
		if err != nil {
			file.warn(now, err.Error(), func() {
				e.logger.WarnContext(ctx, "credentials cannot be read; what was read before is in use", slog.String("credential", string(file.credential)),
					slog.String("file", file.path), slog.String("error", err.Error()))
			})
			continue
		}
		e.show(file.credential, valid.Until)
		left := valid.Until.Sub(now)
		if valid.Until.IsZero() || left > min(expiryAhead, valid.Until.Sub(valid.From)/3) {
			file.warned, file.about = time.Time{}, ""
			continue
		}
		file.warn(now, valid.Until.String(), func() {
			attrs := []slog.Attr{
				slog.String("credential", string(file.credential)), slog.String("file", file.path), slog.Time("expires_at", valid.Until.UTC()),
			}
			if left <= 0 {
				e.logger.LogAttrs(ctx, slog.LevelWarn, "credentials have expired: renew the file, it is read again without a restart", attrs...)
				return
			}
			e.logger.LogAttrs(ctx, slog.LevelWarn, "credentials expire soon: renew the file, it is read again without a restart", attrs...)
		})
	}
}

// warn says something once a day, and at once when it is something else.
func (f *expiring) warn(now time.Time, about string, say func()) {
	if f.about == about && now.Sub(f.warned) < expiryRepeat {
		return
	}
	f.about, f.warned = about, now
	say()
}
