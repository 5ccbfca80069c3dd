package integration

import (
	"cmp"
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// spans is an OTLP receiver that keeps what it gets.
type spans struct {
	url string

	mu       sync.Mutex
	received []*trace.Span
	services map[string]bool
}

func newSpans(t *testing.T) *spans {
	t.Helper()
	s := &spans{services: map[string]bool{}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			unzipped, err := gzip.NewReader(r.Body)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			body = unzipped
		}
		text, err := io.ReadAll(body)
		var request collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(text, &request)
		}
		if err != nil || r.URL.Path != "/v1/traces" {
			http.Error(w, fmt.Sprint(r.URL.Path, err), http.StatusBadRequest)
			return
		}
		s.take(&request)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func (s *spans) take(request *collector.ExportTraceServiceRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, resource := range request.GetResourceSpans() {
		for _, a := range resource.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				s.services[a.GetValue().GetStringValue()] = true
			}
		}
		for _, scope := range resource.GetScopeSpans() {
			s.received = append(s.received, scope.GetSpans()...)
		}
	}
}

// of are the spans of a trace in the order of their beginnings.
func (s *spans) of(traceID string) []*trace.Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*trace.Span
	for _, one := range s.received {
		if hex.EncodeToString(one.GetTraceId()) == traceID {
			all = append(all, one)
		}
	}
	slices.SortStableFunc(all, func(a, b *trace.Span) int { return cmp.Compare(a.GetStartTimeUnixNano(), b.GetStartTimeUnixNano()) })
	return all
}

// all is everything that was received, as text.
func (s *spans) all() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, one := range s.received {
		fmt.Fprintln(&b, one)
	}
	return b.String()
}

// tree draws a trace: the spans below their parents, with the attributes that say most.
func tree(all []*trace.Span) string {
	var b strings.Builder
	var draw func(parent, indent string)
	draw = func(parent, indent string) {
		for _, one := range all {
			if hex.EncodeToString(one.GetParentSpanId()) != parent {
				continue
			}
			fmt.Fprintf(&b, "%s%s%s%s\n", indent, one.GetName(), attributes(one), ended(one))
			draw(hex.EncodeToString(one.GetSpanId()), indent+"  ")
		}
	}
	draw("", "")
	return b.String()
}

func ended(one *trace.Span) string {
	if one.GetStatus().GetCode() == trace.Status_STATUS_CODE_ERROR {
		return " error: " + one.GetStatus().GetMessage()
	}
	return ""
}

func attributes(one *trace.Span) string {
	var words []string
	for _, a := range one.GetAttributes() {
		switch a.GetKey() {
		case "http.response.status_code", "kexrelay.attempt", "kexrelay.replay_of":
			words = append(words, fmt.Sprintf("%s=%d", strings.TrimPrefix(a.GetKey(), "kexrelay."), a.GetValue().GetIntValue()))
		case "kexrelay.outcome", "kexrelay.request_id":
			words = append(words, strings.TrimPrefix(a.GetKey(), "kexrelay.")+"="+a.GetValue().GetStringValue())
		}
	}
	if len(one.GetLinks()) > 0 {
		words = append(words, fmt.Sprintf("links=%d", len(one.GetLinks())))
	}
	if len(words) == 0 {
		return ""
	}
	return " [" + strings.Join(words, " ") + "]"
}
