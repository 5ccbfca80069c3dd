package simulator

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkBooking is the whole way of a booking without the network: what the simulator itself costs per request.
func BenchmarkBooking(b *testing.B) {
	for name, script := range map[string]string{
		"healthy":  "",
		"scripted": "latency: {fixed: 0s}\nfaults: [{rate: 0.05, status: 500}]\nvorgaenge: [{match: ['4*'], sequence: [{status: 503}]}]",
	} {
		b.Run(name, func(b *testing.B) { benchmarkBooking(b, script, KindComments, `["`+strings.Repeat("x", 200)+`"]`) })
	}
	b.Run("document of 1 MB", func(b *testing.B) {
		benchmarkBooking(b, "", KindDocument, `{"filename":"a.pdf","base64Content":"`+strings.Repeat("QUJD", 1<<18)+`"}`)
	})
}

func benchmarkBooking(b *testing.B, script, kind, body string) {
	b.Helper()
	parsed, err := ParseScript([]byte(script))
	if err != nil {
		b.Fatal(err)
	}
	s, err := New(Config{ClientID: testClient, ClientSecret: testSecret, Script: parsed})
	if err != nil {
		b.Fatal(err)
	}
	token := s.tokens.issue([]string{ScopeWrite}, time.Hour)
	handler := s.Handler()
	var n atomic.Int64
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			r := update(b.Context(), BasePath, token, strconv.FormatInt(i%1000, 10), kind, "trace-"+strconv.FormatInt(i, 10), body)
			handler.ServeHTTP(httptest.NewRecorder(), r)
		}
	})
	if counts := s.Counts(); counts.Booked+s.Stats().ByStatus[500]+s.Stats().ByStatus[503] != counts.Requests {
		b.Errorf("counts %+v", counts)
	}
}

// BenchmarkOverTheNetwork is what a client on the same machine sees, client included.
func BenchmarkOverTheNetwork(b *testing.B) {
	s, err := New(Config{ClientID: testClient, ClientSecret: testSecret})
	if err != nil {
		b.Fatal(err)
	}
	server, err := s.Start(b.Context(), "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	defer transport.CloseIdleConnections()
	token := s.tokens.issue([]string{ScopeWrite}, time.Hour)
	body := `["` + strings.Repeat("x", 200) + `"]`
	var n atomic.Int64
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			r := update(b.Context(), server.BaseURL(), token, strconv.FormatInt(i%1000, 10), KindComments, "trace-"+strconv.FormatInt(i, 10), body)
			response, err := transport.RoundTrip(r)
			if err != nil {
				b.Error(err)
				return
			}
			_ = response.Body.Close()
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
}
