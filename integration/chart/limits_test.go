package chart

import (
	"slices"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
)

// With KEDA the number of replicas is its business alone, between one and what can ever help.
func TestAutoscalingStaysWithinWhatHelps(t *testing.T) {
	objects := render(t, minimal, "autoscaling: {enabled: true}", "topology: {partitions: 4}")
	if d := deployment(t, objects); d.Spec.Replicas != nil {
		t.Errorf("the deployment insists on %d replicas", *d.Spec.Replicas)
	}
	s := get[scaledObject](t, objects, "ScaledObject", fullname).Spec
	if s.ScaleTargetRef.Kind != "Deployment" || s.ScaleTargetRef.Name != fullname || *s.MinReplicaCount != 2 || *s.MaxReplicaCount != 5 || s.Fallback.Replicas != 5 {
		t.Errorf("%+v", s)
	}
	trigger := s.Triggers[0]
	if query := trigger.Metadata["query"]; trigger.Type != "prometheus" || query != `sum(kexrelay_ready_updates{namespace="crm",job="kex-kexrelay"})` {
		t.Errorf("trigger %+v", trigger)
	}
	for values, problem := range map[string]string{
		"autoscaling: {enabled: true, maxReplicas: 6}\ntopology: {partitions: 4}": "autoscaling.maxReplicas (6) must be at most topology.partitions + 1 (5)",
		"autoscaling: {enabled: true, minReplicas: 3}":                            "autoscaling.minReplicas (3) must be at most the largest number of replicas (2)",
		"autoscaling: {enabled: true, minReplicas: 0}":                            "autoscaling/minReplicas",
	} {
		refused(t, problem, minimal, values)
	}
}

// A pod has more time than a request and what follows it may take.
func TestGraceIsMoreThanAStopMayTake(t *testing.T) {
	for values, want := range map[string]int64{
		"": 70, "config: {kex: {request-timeout: 2m}, shutdown-timeout: 2m30s}": 275, "terminationGracePeriodSeconds: 66": 66,
		"config: {kex: {request-timeout: 1h}, shutdown-timeout: 1h1m1s}": 7266,
	} {
		if got := *deployment(t, render(t, minimal, values)).Spec.Template.Spec.TerminationGracePeriodSeconds; got != want {
			t.Errorf("%q: %d s, want %d", values, got, want)
		}
	}
	refused(t, "terminationGracePeriodSeconds (65) must be more than config.kex.request-timeout and config.shutdown-timeout together (65)",
		minimal, "terminationGracePeriodSeconds: 65")
	refused(t, "config.shutdown-timeout (35s) must be longer than config.kex.request-timeout (60s)", minimal, "config: {kex: {request-timeout: 1m}}")
}

// Nothing gets in but who is named, nothing gets out but to DNS, NATS and the API.
func TestNetworkPolicyOpensWhatIsNeeded(t *testing.T) {
	policy := get[networkingv1.NetworkPolicy](t, render(t, minimal), "NetworkPolicy", fullname).Spec
	if len(policy.Ingress) != 0 || !slices.Equal(policy.PolicyTypes, []networkingv1.PolicyType{"Ingress", "Egress"}) {
		t.Errorf("%+v", policy)
	}
	for values, want := range map[string]string{
		minimal:    "53 53 4222 443",
		everything: "53 53 4222 4223 443 8443 3128 4318",
		"config: {kex: {client-id: x, base-url: 'http://simulator:8089/kex', token-url: 'http://simulator/token'}, nats: {url: nats}}": "53 53 4222 80 8089",
	} {
		var got []string
		for _, rule := range get[networkingv1.NetworkPolicy](t, render(t, values), "NetworkPolicy", fullname).Spec.Egress {
			for _, port := range rule.Ports {
				got = append(got, port.Port.String())
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("egress to the ports %v, want %s", got, want)
		}
	}
	open := get[networkingv1.NetworkPolicy](t, render(t, everything), "NetworkPolicy", fullname).Spec.Ingress
	if len(open) != 1 || len(open[0].From) != 1 || open[0].Ports[0].Port.StrVal != "http" {
		t.Errorf("ingress %+v", open)
	}
}
