package config

import (
	"errors"
	"testing"
)

// A command that knows only the environment names the same source as the relay beside it.
func TestRelaySettingsAlone(t *testing.T) {
	tests := map[string]struct {
		environ     []string
		source, pre string
	}{
		"defaults":           {nil, "urn:kexrelay:default", "kxr"},
		"name makes source":  {[]string{"KEXRELAY_NAME=north"}, "urn:kexrelay:north", "kxr"},
		"source before name": {[]string{"KEXRELAY_NAME=north", "KEXRELAY_SOURCE=urn:kexrelay:x", "KEXRELAY_TRACE_PREFIX=sys"}, "urn:kexrelay:x", "sys"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := LoadRelay(nil, EnvOf(test.environ))
			if err != nil {
				t.Fatal(err)
			}
			if got.Source != test.source || got.TracePrefix != test.pre {
				t.Errorf("got source %q and prefix %q, want %q and %q", got.Source, got.TracePrefix, test.source, test.pre)
			}
		})
	}
	_, err := LoadRelay(nil, EnvOf([]string{"KEXRELAY_SOURCE=not a urn"}))
	if wrong, ok := errors.AsType[*OptionError](err); !ok || wrong.Option != "source" {
		t.Errorf("a wrong source gives %v, want an error about the option source", err)
	}
}
