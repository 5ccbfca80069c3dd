package topology

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// minServer is the oldest supported server. Nothing here needs more than 2.11 has, but nobody has tried it with that.
	minServerMajor, minServerMinor = 2, 14
	// minAPILevel is its JetStream API level. It is asked for besides the version, because the server one is
	// connected to need not be the one that holds the streams (leaf nodes, clusters during an upgrade).
	minAPILevel = 4

	// metadataLevel is the answering server's API level in every stream info.
	metadataLevel = "_nats.level"
)

// ErrServerTooOld says that a server is older than 2.14.
var ErrServerTooOld = errors.New("the nats-server is too old")

// requireVersion checks the server the connection is made to. A version that cannot be read (a development build
// calls itself as it likes) passes: the API level decides.
func requireVersion(js jetstream.JetStream) (string, error) {
	version := js.Conn().ConnectedServerVersion()
	major, minor, ok := parseVersion(version)
	if ok && (major < minServerMajor || major == minServerMajor && minor < minServerMinor) {
		return version, fmt.Errorf("%w: connected to %s, kexrelay needs %d.%d or later; upgrade it or connect to another",
			ErrServerTooOld, version, minServerMajor, minServerMinor)
	}
	return version, nil
}

// requireLevel checks the server that answers for JetStream.
func requireLevel(level int) error {
	if level < minAPILevel {
		return fmt.Errorf("%w: JetStream answers with API level %d, kexrelay needs %d (nats-server %d.%d); upgrade every server of the cluster",
			ErrServerTooOld, level, minAPILevel, minServerMajor, minServerMinor)
	}
	return nil
}

// accountLevel asks for the API level; it needs the right to $JS.API.INFO.
func accountLevel(ctx context.Context, js jetstream.JetStream) (int, error) {
	var info *jetstream.AccountInfo
	err := patiently(ctx, func(ctx context.Context) (err error) {
		info, err = js.AccountInfo(ctx)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("asking for the JetStream account: %w", explainAsking(err))
	}
	return info.API.Level, nil
}

// streamLevel reads the API level from a stream's info, for those who have no right to $JS.API.INFO; 0 if it is
// not there, as with servers before 2.11.
func streamLevel(cfg jetstream.StreamConfig) int {
	level, err := strconv.Atoi(cfg.Metadata[metadataLevel])
	if err != nil {
		return 0
	}
	return level
}

func parseVersion(version string) (major, minor int, ok bool) {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) < 2 {
		return 0, 0, false
	}
	major, errMajor := strconv.Atoi(parts[0])
	minor, errMinor := strconv.Atoi(parts[1])
	return major, minor, errMajor == nil && errMinor == nil
}
