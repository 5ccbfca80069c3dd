package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Bounds of values. Each is far beyond what makes sense and far below what breaks something.
const (
	maxText        = 1024
	maxTracePrefix = 32 // Leaves 96 of the 128 characters a trace ID may have for the random part and suffixes.
	maxConcurrency = 4096
	// minInflight is the server's default for the largest message: less could not hold a single update.
	minInflight = 1 << 20
	maxPort     = 65535
	maxHost     = 253
)

var (
	namePattern        = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	tracePrefixPattern = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
	urnPattern         = regexp.MustCompile(`^(?i:urn):[A-Za-z0-9][A-Za-z0-9-]{0,30}[A-Za-z0-9]:[A-Za-z0-9()+,\-.:=@;$_!*'%/?#]+$`)
	hostPattern        = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?$`)
	sizePattern        = regexp.MustCompile(`^([0-9]+) ?([A-Za-z]*)$`)
)

// parseHTTPURL takes a URL without what could hold a secret or would break paths put behind it. Whether plain
// HTTP is allowed depends on another option, see checkPlainHTTP.
func parseHTTPURL(text string) (string, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return "", errors.New("is not a URL") // The parser's own text repeats it, password and all.
	case u.Scheme != "https" && u.Scheme != "http":
		return "", errors.New("is not an https URL")
	case u.Hostname() == "":
		return "", errors.New("is a URL without a host")
	case u.User != nil:
		return "", errors.New("holds user information, which no URL here may")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", errors.New("has a query or a fragment, which no URL here may")
	case u.Port() != "" && !validPort(u.Port()):
		return "", errors.New("has an impossible port")
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// isLoopback reports whether a URL that parseHTTPURL accepted stays on this machine.
func isLoopback(text string) bool {
	u, err := url.Parse(text)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return strings.EqualFold(u.Hostname(), "localhost") || ip != nil && ip.IsLoopback()
}

func validPort(text string) bool {
	port, err := strconv.Atoi(text)
	return err == nil && port >= 0 && port <= maxPort
}

// parseVisible takes an ID: printable ASCII without spaces.
func parseVisible(text string) (string, error) {
	if text == "" || len(text) > maxText {
		return "", errors.New("is empty or too long")
	}
	for _, r := range text {
		if r <= ' ' || r > '~' {
			return "", errors.New("holds a character that is no printable ASCII, or a space")
		}
	}
	return text, nil
}

// parseSecret takes any text of one line.
func parseSecret(text string) (Secret, error) {
	if text == "" {
		return Secret{}, errors.New("is empty")
	}
	if strings.ContainsFunc(text, unicode.IsControl) {
		return Secret{}, errors.New("holds a control character, perhaps a line break")
	}
	return NewSecret(text), nil
}

func parsePath(text string) (string, error) {
	if text == "" || strings.ContainsFunc(text, unicode.IsControl) {
		return "", errors.New("is not a file name")
	}
	return text, nil
}

// parseScopes takes scope tokens as OAuth defines them.
func parseScopes(text string) ([]string, error) {
	scopes := strings.Fields(text)
	if len(scopes) == 0 {
		return nil, errors.New("names no scope")
	}
	for _, scope := range scopes {
		for _, r := range scope {
			if r <= ' ' || r > '~' || r == '"' || r == '\\' {
				return nil, errors.New("holds a character no scope may have")
			}
		}
	}
	return scopes, nil
}

// parseDuration takes a positive duration.
func parseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, errors.New("is not a duration; write for example 500ms, 30s or 5m")
	}
	if d <= 0 {
		return 0, errors.New("is not a positive duration")
	}
	return d, nil
}

func parseBool(text string) (bool, error) {
	switch strings.ToLower(text) {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return false, errors.New("is neither true nor false")
}

func parseName(text string) (string, error) {
	if !namePattern.MatchString(text) {
		return "", errors.New("is not a name: 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit")
	}
	return text, nil
}

func parseURN(text string) (string, error) {
	if len(text) > maxText || !urnPattern.MatchString(text) {
		return "", errors.New("is not a URN; write for example urn:kexrelay:production")
	}
	return text, nil
}

func parseTracePrefix(text string) (string, error) {
	if len(text) > maxTracePrefix || !tracePrefixPattern.MatchString(text) {
		return "", fmt.Errorf("is not a trace prefix: 1 to %d letters, digits, '.', '_' and '-'", maxTracePrefix)
	}
	return text, nil
}

func parseConcurrency(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxConcurrency {
		return 0, fmt.Errorf("is not a number from 1 to %d", maxConcurrency)
	}
	return n, nil
}

func parseRate(text string) (float64, error) {
	rate, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(rate) || math.IsInf(rate, 0) || rate < 0 {
		return 0, errors.New("is not a number of requests per second; 0 is no limit")
	}
	return rate, nil
}

// parseSize takes bytes with a decimal or binary unit.
func parseSize(text string) (int64, error) {
	problem := errors.New("is not a size; write for example 128MiB, 64MB or 1048576")
	parts := sizePattern.FindStringSubmatch(text)
	if parts == nil {
		return 0, problem
	}
	factor, ok := map[string]int64{
		"": 1, "b": 1,
		"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
		"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
	}[strings.ToLower(parts[2])]
	if !ok {
		return 0, problem
	}
	n, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil || n > math.MaxInt64/factor {
		return 0, errors.New("is too large")
	}
	return n * factor, nil
}

func parseInflight(text string) (int64, error) {
	n, err := parseSize(text)
	if err != nil {
		return 0, err
	}
	if n < minInflight {
		return 0, errors.New("is less than 1MiB, which could not hold a single update")
	}
	return n, nil
}

// parseAddr takes host:port; an empty host is every interface, port 0 any free one. Whether a host name has an
// address on this machine shows when it is listened on.
func parseAddr(text string) (string, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil || !validHost(host) {
		return "", errors.New("is not an address; write for example 127.0.0.1:8080, or :8080 for every interface")
	}
	if !validPort(port) {
		return "", fmt.Errorf("has an impossible port; it is a number from 0 to %d", maxPort)
	}
	return text, nil
}

// parseLoopback takes what parseAddr takes, of this machine's loopback alone.
func parseLoopback(text string) (string, error) {
	if _, err := parseAddr(text); err != nil {
		return "", err
	}
	if !isLoopback("http://" + text) {
		return "", errors.New("is not of loopback; write for example 127.0.0.1:6060")
	}
	return text, nil
}

// validHost takes an IP address, a host name or nothing. What looks like an IPv4 address has to be one.
func validHost(host string) bool {
	if host == "" {
		return true
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return len(host) <= maxHost && hostPattern.MatchString(host) && strings.Trim(host, "0123456789.") != ""
}

func parseLevel(text string) (slog.Level, error) {
	level, ok := map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}[strings.ToLower(text)]
	if !ok {
		return 0, errors.New("is none of debug, info, warn and error")
	}
	return level, nil
}

// oneOf takes exactly one of the words.
func oneOf[T ~string](words ...T) func(string) (T, error) {
	return func(text string) (T, error) {
		if slices.Contains(words, T(text)) {
			return T(text), nil
		}
		var all []string
		for _, w := range words {
			all = append(all, string(w))
		}
		return "", errors.New("is none of " + strings.Join(all, ", "))
	}
}

func parseSubjectToken(text string) (string, error) {
	if _, err := parseVisible(text); err != nil || strings.ContainsAny(text, ".*>") {
		return "", errors.New("is not a single name without '.', '*' and '>'")
	}
	return text, nil
}

// parseSubjectPrefix takes the beginning of a subject; a final dot is left out, NATS clients add it.
func parseSubjectPrefix(text string) (string, error) {
	text = strings.TrimSuffix(text, ".")
	for token := range strings.SplitSeq(text, ".") {
		if _, err := parseSubjectToken(token); err != nil {
			return "", errors.New("is not the beginning of a subject")
		}
	}
	return text, nil
}
