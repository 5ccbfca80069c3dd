package telemetry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"testing"
	"time"
)

type redacted struct{}

func (redacted) LogValue() slog.Value { return slog.StringValue("<redacted>") }

// compareLines lets both handlers write a record and compares what they wrote.
func compareLines(t *testing.T, r slog.Record, with func(slog.Handler) slog.Handler) {
	t.Helper()
	var got, want bytes.Buffer
	own := slog.NewJSONHandler(&want, &slog.HandlerOptions{ReplaceAttr: forPrograms})
	for _, h := range []slog.Handler{newJSONHandler(&got, nil), own} {
		if err := with(h).Handle(context.Background(), r.Clone()); err != nil {
			t.Fatal(err)
		}
	}
	if got.String() != want.String() {
		t.Errorf("got  %swant %s", &got, &want)
	}
}

// Our lines are slog's, for every kind of value and every character, with and without attributes and groups of the logger.
func TestJSONLinesAreThoseOfSlog(t *testing.T) {
	t.Parallel()
	zone := time.FixedZone("x", 5400)
	values := []slog.Value{
		slog.StringValue(""), slog.StringValue("plain <&> text ~"), slog.StringValue("Größe"), slog.StringValue("a\xffb"),
		slog.IntValue(-1), slog.Int64Value(math.MinInt64), slog.Uint64Value(math.MaxUint64), slog.BoolValue(true), slog.BoolValue(false),
		slog.DurationValue(0), slog.DurationValue(1500), slog.DurationValue(time.Hour), slog.DurationValue(math.MinInt64),
		slog.TimeValue(time.Date(2026, 1, 2, 3, 4, 5, 6_999_999, zone)), slog.TimeValue(time.Time{}),
		slog.TimeValue(time.Date(999, 12, 31, 23, 59, 59, 0, time.UTC)), slog.TimeValue(time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC)),
		slog.TimeValue(time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, zone)), slog.TimeValue(time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)),
		slog.Float64Value(1.5), slog.AnyValue(nil), slog.AnyValue(errors.New("broken \"so\"")), slog.AnyValue([]int{1, 2}),
		slog.AnyValue(redacted{}), slog.AnyValue(slog.LevelWarn), slog.GroupValue(slog.Int("a", 1)), slog.GroupValue(),
	}
	for c := range 0x100 {
		values = append(values, slog.StringValue("a"+string(rune(c))+"b"), slog.StringValue("a"+string([]byte{byte(c)})+"b"))
	}
	values = append(values, slog.StringValue("a\u2028b\u2029c\U0001f600"))
	keys := []string{"key", "", "with \"quotes\"", "größe"}
	withs := map[string]func(slog.Handler) slog.Handler{
		"nothing": func(h slog.Handler) slog.Handler { return h },
		"plain": func(h slog.Handler) slog.Handler {
			return h.WithAttrs([]slog.Attr{slog.String("component", "x"), slog.Int("n", 1)})
		},
		"more": func(h slog.Handler) slog.Handler {
			return h.WithAttrs([]slog.Attr{slog.Int("a", 1)}).WithAttrs([]slog.Attr{slog.Int("b", 2)})
		},
		"something":     func(h slog.Handler) slog.Handler { return h.WithAttrs([]slog.Attr{slog.Any("error", errors.New("x"))}) },
		"a group":       func(h slog.Handler) slog.Handler { return h.WithGroup("g").WithAttrs([]slog.Attr{slog.Int("a", 1)}) },
		"no attributes": func(h slog.Handler) slog.Handler { return h.WithAttrs(nil) },
	}
	for name, with := range withs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, key := range keys {
				for _, value := range values {
					r := slog.NewRecord(time.Now(), slog.LevelInfo, "attempt", 0)
					r.AddAttrs(slog.String("before", "x"), slog.Attr{Key: key, Value: value}, slog.Int("after", 1))
					compareLines(t, r, with)
				}
			}
			for _, message := range []string{"", "a \"b\"\n", "größe"} {
				for level := slog.LevelDebug - 2; level < slog.LevelError+3; level++ {
					compareLines(t, slog.NewRecord(time.Date(2026, 11, 28, 1, 2, 3, 4, zone), level, message, 0), with)
				}
			}
			compareLines(t, slog.NewRecord(time.Time{}, slog.LevelInfo, "no time", 0), with)
		})
	}
}

// FuzzJSONLine finds a line that is not slog's.
func FuzzJSONLine(f *testing.F) {
	f.Add("attempt", "key", "text", int64(1), int64(2), 0)
	f.Add("a\"b", "k\\y", "te\nxt", int64(-1), int64(math.MaxInt64), 4)
	f.Fuzz(func(t *testing.T, message, key, text string, n, at int64, level int) {
		r := slog.NewRecord(time.Unix(0, at), slog.Level(level), message, 0)
		r.AddAttrs(
			slog.String(key, text), slog.Int64(key, n), slog.Duration(key, time.Duration(n)), slog.Time(text, time.Unix(n, at)), slog.Uint64(text, uint64(n)))
		compareLines(t, r, func(h slog.Handler) slog.Handler { return h })
		compareLines(t, r, func(h slog.Handler) slog.Handler { return h.WithAttrs([]slog.Attr{slog.String(key, text)}) })
	})
}

// Lines of both ways stay whole when many write at once.
func TestLinesAreWrittenOneAtATime(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	logger := slog.New(newJSONHandler(&out, nil))
	done := make(chan struct{})
	for range 4 {
		go func() {
			defer func() { done <- struct{}{} }()
			for range 100 {
				logger.Info("usual", slog.String("a", "b"))
				logger.Info("other", slog.String("a", "\n"))
			}
		}()
	}
	for range 4 {
		<-done
	}
	lines := bytes.Split(bytes.TrimSuffix(out.Bytes(), []byte("\n")), []byte("\n"))
	for _, line := range lines {
		if !bytes.HasPrefix(line, []byte(`{"time":"`)) || !bytes.HasSuffix(line, []byte(`"}`)) {
			t.Errorf("broken line %s", line)
		}
	}
	if len(lines) != 800 {
		t.Errorf("%d lines", len(lines))
	}
}

// BenchmarkAttemptLine is the line of one request, by slog and by us.
func BenchmarkAttemptLine(b *testing.B) {
	for name, h := range map[string]slog.Handler{
		"slog": slog.NewJSONHandler(struct{ io.Writer }{io.Discard}, &slog.HandlerOptions{ReplaceAttr: forPrograms}),
		"ours": newJSONHandler(io.Discard, nil),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := slog.NewRecord(time.Now(), slog.LevelInfo, "attempt", 0)
				r.AddAttrs(slog.String("update_id", "KEX_UPDATES-4711"), slog.Uint64("update_seq", 4711), slog.String("vorgangsnummer", "123456"),
					slog.String("kind", "kommentare"), slog.String("trace_id", "kxrabcdefghijklmnop"), slog.Int("attempt", 1), slog.Bool("sent", true),
					slog.String("request_id", "kxrabcdefghijklmnop"), slog.String("outcome", "deliver"), slog.Int("status", 200),
					slog.Duration("duration", 1234567))
				_ = h.Handle(b.Context(), r)
			}
		})
	}
}
