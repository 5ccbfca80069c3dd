package chart

import (
	"strings"
	"testing"
)

// refused wants a rendering to fail and to say why.
func refused(t *testing.T, problem string, values ...string) {
	t.Helper()
	_, err := template(values...)
	switch {
	case err == nil:
		t.Errorf("%s\nis rendered, want %q", values[len(values)-1], problem)
	case !strings.Contains(err.Error(), problem):
		t.Errorf("%s\n%v\nwant %q", values[len(values)-1], err, problem)
	}
}

// Each wrong value is named by its path.
func TestBadValuesAreRefusedByTheirName(t *testing.T) {
	for values, problem := range map[string]string{
		"replicas: 0":                          "at '/replicas': minimum: got 0, want 1",
		"replicas: two":                        "at '/replicas': got string, want integer",
		"replica: 2":                           "additional properties 'replica' not allowed",
		"config: {kex: {client-secret: hush}}": "at '/config/kex': additional properties 'client-secret' not allowed",
		"config: {nats: {password: hush}}":     "at '/config/nats': additional properties 'password' not allowed",
		"config: {nats: {url: 'nats://relay:hush@nats:4222'}}":                 "at '/config/nats/url'",
		"config: {kex: {base-url: 'ftp://x'}}":                                 "at '/config/kex/base-url'",
		"config: {kex: {base-url: 'https://me:hush@x'}}":                       "at '/config/kex/base-url'",
		"config: {rates: 3}":                                                   "at '/config': additional properties 'rates' not allowed",
		"config: {unknown-outcome: forget}":                                    "at '/config/unknown-outcome': value must be one of",
		"config: {embedded: true}":                                             "at '/config': additional properties 'embedded' not allowed",
		"config: {http-addr: ':80'}":                                           "at '/config': additional properties 'http-addr' not allowed",
		"config: {shutdown-timeout: 1.5m}":                                     "at '/config/shutdown-timeout'",
		"config: {retry-budget: forever}":                                      "at '/config/retry-budget'",
		"clientSecret: {name: ''}":                                             "at '/clientSecret/name'",
		"clientSecret: {value: hush}":                                          "at '/clientSecret': additional properties 'value' not allowed",
		"nats: {auth: {creds: {secret: a}, nkey: {secret: b}}}":                "at '/nats/auth': maxProperties",
		"nats: {auth: {user: {secret: a, password: hush}}}":                    "at '/nats/auth/user': additional properties 'password' not allowed",
		"kexCA: {configMap: a, secret: b}":                                     "at '/kexCA'",
		"topology: {by: magic}":                                                "at '/topology/by': value must be one of",
		"topology: {partitions: 65}":                                           "at '/topology/partitions': maximum: got 65, want 64",
		"topology: {replicas: 6}":                                              "at '/topology/replicas'",
		"topology: {maxBytes: {KEX_UPDATE: 1GiB}}":                             "additional properties 'KEX_UPDATE' not allowed",
		"topology: {maxBytes: {KEX_UPDATES: 1000}}":                            "at '/topology/maxBytes/KEX_UPDATES'",
		"topology: {resultAge: 30d}":                                           "at '/topology/resultAge'",
		"topology: {by: nack}":                                                 "topology.replicas is required with topology.by nack",
		"topology: {by: nack, replicas: 1}\nnats: {auth: {nkey: {secret: a}}}": "topology.nackAccount is required",
		"extraEnv: [{name: KEX_CLIENT_SECRET, value: hush}]":                   "at '/extraEnv/0",
		"extraEnv: [{name: HTTPS_PROXY, value: 'http://me:hush@proxy'}]":       "at '/extraEnv/0",
		"extraEnv: [{name: OTEL_EXPORTER_OTLP_HEADERS, value: 'a=hush'}]":      "at '/extraEnv/0",
		"image: {digest: latest}":                                              "at '/image/digest'",
		"image: {pullPolicy: Sometimes}":                                       "at '/image/pullPolicy': value must be one of",
		"terminationGracePeriodSeconds: soon":                                  "at '/terminationGracePeriodSeconds'",
		"autoscaling: {threshold: 0}":                                          "at '/autoscaling/threshold'",
	} {
		refused(t, problem, minimal, values)
	}
	refused(t, "at '/config/kex': missing property 'client-id'")
}
