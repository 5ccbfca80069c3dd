package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Bounds of a health check.
const (
	healthTimeout = 5 * time.Second // Where ctx has no earlier deadline.
	maxHealthBody = 64 << 10
)

// CheckHealth asks url (/livez or /readyz) once and is nil for 200. A redirect is not followed and counts as any
// other status. The error names the status and the reason the body gives. client's own redirect policy is not
// used; all else of it is.
func CheckHealth(ctx context.Context, client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return errors.New("checking health: the address is not a URL") // The parser's text repeats it, password and all.
	}
	once := *client
	once.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := once.Do(request)
	if err != nil {
		return fmt.Errorf("checking health: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode == http.StatusOK {
		return nil
	}
	asked := request.URL.Redacted()
	if reason := reasonOf(response.Body); reason != "" {
		return fmt.Errorf("checking health: %s answered %d: %s", asked, response.StatusCode, reason)
	}
	return fmt.Errorf("checking health: %s answered %d", asked, response.StatusCode)
}

// reasonOf is the reason in the body of /readyz, or "" if that is not what answered: a foreign body is not
// repeated.
func reasonOf(body io.Reader) string {
	var r report
	if err := json.NewDecoder(io.LimitReader(body, maxHealthBody)).Decode(&r); err != nil {
		return ""
	}
	foreign := func(c rune) bool { return (c < 'a' || c > 'z') && c != '_' }
	if len(r.Reason) > 32 || strings.ContainsFunc(r.Reason, foreign) {
		return ""
	}
	return r.Reason
}
