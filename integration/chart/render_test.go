package chart

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// everything turns on whatever can be. Names that begin with ref- are references, nothing else may look like one.
const everything = `
image: {repository: registry.example/kexrelay, digest: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}
imagePullSecrets: [{name: ref-pull}]
replicas: 3
config:
  name: production
  source: urn:kexrelay:production
  trace-prefix: crm
  concurrency: 128
  rate: 20.5
  retry-initial: 250ms
  retry-max-interval: 2m
  retry-budget: 30m
  unknown-outcome: park
  max-inflight-bytes: 64MiB
  shutdown-timeout: 1m30s
  log-level: warn
  log-format: json
  pprof-addr: 127.0.0.1:6060
  insecure-http: false
  kex:
    client-id: crm-relay
    base-url: https://kex.example:8443/kex
    token-url: https://login.example/token
    scopes: privatkredit:vorgang:schreiben
    impersonate-subject: ABC12
    impersonate-actor: DEF34
    request-timeout: 1m
  nats:
    url: tls://nats-0.nats:4222,tls://nats-1.nats:4223
    tls-first: true
    timeout: 7s
    inbox-prefix: _INBOX_relay
    js-domain: crm
clientSecret: {name: ref-client, key: secret}
kexCA: {configMap: ref-proxy, key: proxy.pem}
nats:
  auth: {creds: {secret: ref-relay, key: relay.creds}}
  tls:
    ca: {secret: ref-nats-ca}
    client: {secret: ref-nats-client, certKey: cert, keyKey: key}
topology:
  partitions: 4
  replicas: 3
  storage: file
  maxBytes: {KEX_UPDATES: 20GiB, KEX_RESULTS: unlimited}
  resultAge: 1440h
  auth: {nkey: {secret: ref-setup}}
  inboxPrefix: _INBOX_setup
extraEnv:
  - {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: "http://collector:4318"}
  - {name: OTEL_EXPORTER_OTLP_HEADERS, valueFrom: {secretKeyRef: {name: ref-otel, key: headers}}}
  - {name: HTTPS_PROXY, value: "http://proxy:3128"}
terminationGracePeriodSeconds: 200
networkPolicy:
  metricsFrom: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]
  extraEgress: [{ports: [{protocol: TCP, port: 3128}, {protocol: TCP, port: 4318}]}]
serviceMonitor: {enabled: true, interval: 30s, labels: {release: prometheus}}
prometheusRule: {enabled: true, labels: {release: prometheus}}
dashboard: {enabled: true}
autoscaling: {enabled: true, minReplicas: 2, maxReplicas: 5, threshold: 1000}
podAnnotations: {example.org/team: crm}
nodeSelector: {kubernetes.io/arch: amd64}
tolerations: [{key: dedicated, operator: Equal, value: crm, effect: NoSchedule}]
affinity: {nodeAffinity: {}}
priorityClassName: important
`

// variants are renderings that every rule of this file is held against.
var variants = map[string][]string{
	"least":      {minimal},
	"everything": {everything},
	"user":       {everything, `nats: {auth: {user: {secret: ref-user}, creds: null}}`, `topology: {auth: {}}`},
	"nack":       {minimal, `topology: {by: nack, partitions: 3, replicas: 3}`},
	"nack, all":  {everything, `topology: {by: nack, nackAccount: crm}`},
	"off": {minimal, `
podDisruptionBudget: {enabled: false}
networkPolicy: {enabled: false}
serviceAccount: {create: false}
topology: {by: none}
kexCA: {secret: ref-ca}
fullnameOverride: kex-kexrelay
image: {tag: v1.2.3}`},
}

// pods are the templates of all pods of a rendering.
func pods(objects rendered) map[string]corev1.PodTemplateSpec {
	all := map[string]corev1.PodTemplateSpec{}
	for name, o := range objects {
		if job, ok := o.value.(*batchv1.Job); ok {
			all[name] = job.Spec.Template
		}
	}
	return all
}

func allPods(t *testing.T, objects rendered) map[string]corev1.PodTemplateSpec {
	t.Helper()
	all := pods(objects)
	all["Deployment"] = deployment(t, objects).Spec.Template
	return all
}

func TestEveryVariantRendersWhatItSays(t *testing.T) {
	common := []string{"ConfigMap kex-kexrelay", "Deployment kex-kexrelay", "Service kex-kexrelay"}
	usual := append(slices.Clone(common), "NetworkPolicy kex-kexrelay", "PodDisruptionBudget kex-kexrelay", "ServiceAccount kex-kexrelay")
	all := append(slices.Clone(usual), "ConfigMap kex-kexrelay-dashboard", "PrometheusRule kex-kexrelay", "ScaledObject kex-kexrelay", "ServiceMonitor kex-kexrelay")
	job := "Job kex-kexrelay-setup"
	want := map[string][]string{
		"least": append(slices.Clone(usual), job), "everything": append(slices.Clone(all), job), "user": append(slices.Clone(all), job),
		"nack": usual, "nack, all": all, "off": common,
	}
	for name, values := range variants {
		var got []string
		for _, object := range slices.Sorted(maps.Keys(render(t, values...))) {
			if kind, _, _ := strings.Cut(object, " "); kind != "Stream" && kind != "Consumer" {
				got = append(got, object)
			}
		}
		if slices.Sort(want[name]); !slices.Equal(got, want[name]) {
			t.Errorf("%s: there are\n%v, want\n%v", name, got, want[name])
		}
	}
}

// Whatever selects pods selects the relays; the job's pod is nobody's but the network policy's.
func TestSelectorsAndLabelsFitTogether(t *testing.T) {
	for name, values := range variants {
		objects := render(t, values...)
		d := deployment(t, objects)
		relay := labels.Set(d.Spec.Template.Labels)
		selectors := map[string]labels.Selector{"Service": labels.SelectorFromSet(get[corev1.Service](t, objects, "Service", fullname).Spec.Selector)}
		add := func(what string, s *metav1.LabelSelector) {
			selector, err := metav1.LabelSelectorAsSelector(s)
			if err != nil {
				t.Fatal(err)
			}
			selectors[what] = selector
		}
		add("Deployment", d.Spec.Selector)
		add("topology spread", d.Spec.Template.Spec.TopologySpreadConstraints[0].LabelSelector)
		if name != "off" {
			add("PodDisruptionBudget", get[policyv1.PodDisruptionBudget](t, objects, "PodDisruptionBudget", fullname).Spec.Selector)
			policy, err := metav1.LabelSelectorAsSelector(&get[networkingv1.NetworkPolicy](t, objects, "NetworkPolicy", fullname).Spec.PodSelector)
			if err != nil {
				t.Fatal(err)
			}
			for pod, template := range allPods(t, objects) {
				if policy.Empty() || !policy.Matches(labels.Set(template.Labels)) {
					t.Errorf("%s: the network policy does not hold for %s", name, pod)
				}
			}
		}
		for what, selector := range selectors {
			if selector.Empty() || !selector.Matches(relay) {
				t.Errorf("%s: %s selects %s, the relays are %v", name, what, selector, relay)
			}
			for pod, template := range pods(objects) {
				if selector.Matches(labels.Set(template.Labels)) {
					t.Errorf("%s: %s selects %s too", name, what, pod)
				}
			}
		}
	}
}

// What Prometheus and KEDA look for is there under these names.
func TestMonitoringFindsTheService(t *testing.T) {
	objects := render(t, everything)
	service := get[corev1.Service](t, objects, "Service", fullname)
	monitor := get[serviceMonitor](t, objects, "ServiceMonitor", fullname)
	selector, err := metav1.LabelSelectorAsSelector(&monitor.Spec.Selector)
	if err != nil || selector.Empty() || !selector.Matches(labels.Set(service.Labels)) {
		t.Errorf("the ServiceMonitor selects %v, the service is %v", selector, service.Labels)
	}
	if e := monitor.Spec.Endpoints; len(e) != 1 || e[0].Port != service.Spec.Ports[0].Name || e[0].Path != "/metrics" || e[0].Interval != "30s" {
		t.Errorf("endpoints %+v", e)
	}
	if monitor.Labels["release"] != "prometheus" || !slices.Equal(monitor.Spec.NamespaceSelector.MatchNames, []string{namespace}) {
		t.Errorf("%+v", monitor)
	}
	container := deployment(t, objects).Spec.Template.Spec.Containers[0]
	if service.Spec.Ports[0].TargetPort.StrVal != container.Ports[0].Name {
		t.Errorf("the service goes to %v, the container has %v", service.Spec.Ports[0].TargetPort, container.Ports)
	}
	if n := len(get[prometheusRule](t, objects, "PrometheusRule", fullname).Spec.Groups[0].Rules); n < 15 {
		t.Errorf("%d rules", n)
	}
	if json := get[corev1.ConfigMap](t, objects, "ConfigMap", fullname+"-dashboard").Data["kexrelay.json"]; !strings.Contains(json, `"uid": "kexrelay"`) {
		t.Errorf("the dashboard begins %.80s", json)
	}
}

// Nobody runs as root, writes into the image, has a capability or Kubernetes' token.
func TestPodsMayDoNothing(t *testing.T) {
	for name, values := range variants {
		for pod, template := range allPods(t, render(t, values...)) {
			p, c := template.Spec.SecurityContext, template.Spec.Containers[0].SecurityContext
			if p == nil || !*p.RunAsNonRoot || *p.RunAsUser == 0 || *p.RunAsGroup == 0 || *p.FSGroup == 0 || p.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
				t.Errorf("%s, %s: pod %+v", name, pod, p)
			}
			if c == nil || *c.AllowPrivilegeEscalation || !*c.ReadOnlyRootFilesystem || len(c.Capabilities.Add) != 0 ||
				!slices.Equal(c.Capabilities.Drop, []corev1.Capability{"ALL"}) {
				t.Errorf("%s, %s: container %+v", name, pod, c)
			}
			if token := template.Spec.AutomountServiceAccountToken; token == nil || *token {
				t.Errorf("%s, %s: has a token", name, pod)
			}
			if len(template.Spec.Containers) != 1 || len(template.Spec.InitContainers) != 0 || template.Spec.HostNetwork {
				t.Errorf("%s, %s: %+v", name, pod, template.Spec)
			}
			if r := template.Spec.Containers[0].Resources; r.Limits.Memory().IsZero() || r.Requests.Cpu().IsZero() {
				t.Errorf("%s, %s: resources %+v", name, pod, r)
			}
		}
	}
}

// Secrets are mounted whole and read-only, so that a renewed one is seen, and every mount has its volume.
func TestSecretsComeByReferenceAndAreRenewed(t *testing.T) {
	for name, values := range variants {
		for pod, template := range allPods(t, render(t, values...)) {
			volumes, used := map[string]corev1.Volume{}, map[string]bool{}
			for _, v := range template.Spec.Volumes {
				if _, twice := volumes[v.Name]; twice {
					t.Errorf("%s, %s: two volumes %s", name, pod, v.Name)
				}
				volumes[v.Name] = v
				if v.Secret != nil && (v.Secret.DefaultMode == nil || *v.Secret.DefaultMode != 0o440) {
					t.Errorf("%s, %s: the secret %s is for everybody", name, pod, v.Name)
				}
			}
			for _, m := range template.Spec.Containers[0].VolumeMounts {
				if _, ok := volumes[m.Name]; !ok || !m.ReadOnly || m.SubPath != "" {
					t.Errorf("%s, %s: mount %+v, its volume is there: %t", name, pod, m, ok)
				}
				used[m.Name] = true
			}
			if len(used) != len(volumes) {
				t.Errorf("%s, %s: of the volumes %v only %v are mounted", name, pod, volumes, used)
			}
			seen := map[string]bool{}
			for _, e := range template.Spec.Containers[0].Env {
				if seen[e.Name] || e.Value == "" && e.ValueFrom == nil {
					t.Errorf("%s, %s: %s is there twice or empty", name, pod, e.Name)
				}
				seen[e.Name] = true
				secret := strings.Contains(e.Name, "PASSWORD") || strings.HasSuffix(e.Name, "_USER") || e.Name == "KEX_CLIENT_SECRET" || strings.HasSuffix(e.Name, "HEADERS")
				if secret && (e.ValueFrom == nil || e.ValueFrom.SecretKeyRef == nil) {
					t.Errorf("%s, %s: %s is a value", name, pod, e.Name)
				}
			}
		}
	}
	for name, values := range variants {
		for key, o := range render(t, values...) {
			if o.kind == "Secret" {
				t.Errorf("%s: the chart makes %s", name, key)
			}
		}
	}
}

func TestEveryReferenceArrives(t *testing.T) {
	var text strings.Builder
	for _, variant := range []string{"everything", "user", "off"} {
		for _, o := range render(t, variants[variant]...) {
			text.Write(o.text)
		}
	}
	for _, ref := range []string{
		"ref-pull", "ref-client", "ref-proxy", "ref-relay", "ref-nats-ca", "ref-nats-client", "ref-setup", "ref-otel", "ref-user", "ref-ca",
	} {
		if !strings.Contains(text.String(), ref) {
			t.Errorf("%s is nowhere", ref)
		}
	}
}

func TestReplicasGoOneByOneAndNodesCanBeDrained(t *testing.T) {
	objects := render(t, minimal)
	budget := get[policyv1.PodDisruptionBudget](t, objects, "PodDisruptionBudget", fullname).Spec
	if budget.MaxUnavailable.IntValue() != 1 || *budget.UnhealthyPodEvictionPolicy != policyv1.AlwaysAllow || budget.MinAvailable != nil {
		t.Errorf("budget %+v", budget)
	}
	d := deployment(t, objects)
	if *d.Spec.Replicas != 2 || d.Spec.Strategy.RollingUpdate.MaxUnavailable.IntValue() != 0 || d.Spec.Strategy.RollingUpdate.MaxSurge.IntValue() != 1 {
		t.Errorf("%d replicas, strategy %+v", *d.Spec.Replicas, d.Spec.Strategy.RollingUpdate)
	}
	if one, other := d.Spec.Template.Annotations, deployment(t, render(t, minimal, "config: {rate: 3}")).Spec.Template.Annotations; maps.Equal(one, other) {
		t.Error("another configuration restarts no pod")
	}
}

// The job comes before anything else of the release is there: so it uses none of it. What it refused stays to be read.
func TestSetupComesFirstAndStandsAlone(t *testing.T) {
	for name, values := range variants {
		objects := render(t, values...)
		if _, ok := objects["Job "+fullname+"-setup"]; !ok {
			continue
		}
		job := get[batchv1.Job](t, objects, "Job", fullname+"-setup")
		if a := job.Annotations; a["helm.sh/hook"] != "pre-install,pre-upgrade" || a["helm.sh/hook-delete-policy"] != "before-hook-creation,hook-succeeded" {
			t.Errorf("%s: annotations %v", name, a)
		}
		pod := job.Spec.Template.Spec
		if pod.ServiceAccountName != "" || pod.RestartPolicy != corev1.RestartPolicyNever || *job.Spec.BackoffLimit > 1 || *job.Spec.ActiveDeadlineSeconds < 120 {
			t.Errorf("%s: %+v", name, job.Spec)
		}
		for _, v := range pod.Volumes {
			if v.ConfigMap != nil && v.ConfigMap.Name == fullname {
				t.Errorf("%s: it uses the release's ConfigMap", name)
			}
		}
	}
}

// As helm lint sees it.
func TestHelmLintFindsNothing(t *testing.T) {
	for name, values := range variants {
		all, err := merged(values...)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range lint.All(chartDir, all, namespace, true).Messages {
			if m.Severity > support.InfoSev {
				t.Errorf("%s: %v", name, m)
			}
		}
	}
}
