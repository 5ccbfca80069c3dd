package telemetry_test

import (
	"strings"
	"testing"

	"kexrelay/internal/telemetry"
)

func variables(pairs ...string) telemetry.Variables {
	return func(name string) (string, bool) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

func TestTracingIsOffUnlessACollectorIsNamed(t *testing.T) {
	t.Parallel()
	const endpoint, url = "OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example:4318"
	for name, tc := range map[string]struct {
		given  []string
		wanted bool
	}{
		"nothing":                {nil, false},
		"a service name":         {[]string{"OTEL_SERVICE_NAME", "x"}, false},
		"a collector":            {[]string{endpoint, url}, true},
		"a collector for traces": {[]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url}, true},
		"otlp":                   {[]string{"OTEL_TRACES_EXPORTER", "otlp"}, true},
		"none":                   {[]string{endpoint, url, "OTEL_TRACES_EXPORTER", "none"}, false},
		"disabled":               {[]string{endpoint, url, "OTEL_SDK_DISABLED", "True"}, false},
	} {
		if wanted, err := telemetry.TracingWanted(variables(tc.given...)); wanted != tc.wanted || err != nil {
			t.Errorf("%s: %v, %v, want %v", name, wanted, err, tc.wanted)
		}
	}
}

func TestWrongVariablesAreNamedWithoutTheirValues(t *testing.T) {
	t.Parallel()
	const canary = "c4nary"
	for name, values := range map[string][]string{
		"OTEL_TRACES_EXPORTER":                 {canary, "console"},
		"OTEL_EXPORTER_OTLP_PROTOCOL":          {canary, "http/json"},
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT":   {canary, "c4nary:4318", "ftp://c4nary", "http://u:c4nary@host"},
		"OTEL_EXPORTER_OTLP_HEADERS":           {canary, "a=b,c4nary", "=c4nary"},
		"OTEL_EXPORTER_OTLP_COMPRESSION":       {canary},
		"OTEL_EXPORTER_OTLP_CERTIFICATE":       {"/nosuch/c4nary"},
		"OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY": {"/nosuch/c4nary"},
		"OTEL_EXPORTER_OTLP_TIMEOUT":           {canary, "-1", "1s"},
		"OTEL_BSP_MAX_QUEUE_SIZE":              {"0", canary},
		"OTEL_TRACES_SAMPLER":                  {canary},
	} {
		for _, value := range values {
			given := []string{name, value}
			if name != "OTEL_TRACES_EXPORTER" {
				given = append(given, "OTEL_TRACES_EXPORTER", "otlp")
			}
			_, err := telemetry.TracingWanted(variables(given...))
			if err == nil || !strings.HasPrefix(err.Error(), name+": ") || strings.Contains(err.Error(), canary) {
				t.Errorf("%s=%s: %v, want the name without the value", name, value, err)
			}
		}
	}
	if _, err := telemetry.TracingWanted(variables("OTEL_TRACES_EXPORTER", "otlp", "OTEL_TRACES_SAMPLER", "traceidratio", "OTEL_TRACES_SAMPLER_ARG", "2")); err == nil {
		t.Error("a ratio of 2 passed")
	}
}
