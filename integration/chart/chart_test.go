package chart

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	sigsjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

const (
	chartDir  = "../../deploy/helm/kexrelay"
	release   = "kex"
	namespace = "crm"
	fullname  = "kex-kexrelay"
)

// minimal are the values nobody can do without.
const minimal = `
config: {kex: {client-id: crm-relay}}
`

// programs are the product's, built once.
var programs struct{ kexrelay, natsServer string }

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kexrelay-chart-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a leftover in the temporary directory harms nobody
	programs.kexrelay, programs.natsServer = filepath.Join(dir, "kexrelay"), filepath.Join(dir, "nats-server")
	for out, pkg := range map[string]string{
		programs.kexrelay: "kexrelay/cmd/kexrelay", programs.natsServer: "github.com/nats-io/nats-server/v2",
	} {
		build := exec.CommandContext(context.Background(), "go", "build", "-o", out, pkg)
		build.Dir = "../.."
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building %s: %v\n%s", pkg, err, text)
			return 1
		}
	}
	return m.Run()
}

// object is one rendered manifest, decoded into its type.
type object struct {
	file string
	text []byte
	meta metav1.ObjectMeta
	kind string
	// value is a pointer to the type of kinds.
	value any
}

// rendered are all manifests of a rendering, by kind and name.
type rendered map[string]object

// kinds are the types that manifests are decoded into. They refuse what they do not know, in exactly this spelling.
func newKind(apiVersion, kind string) (value any, meta *metav1.ObjectMeta) {
	switch apiVersion + " " + kind {
	case "v1 ConfigMap":
		v := &corev1.ConfigMap{}
		return v, &v.ObjectMeta
	case "v1 Service":
		v := &corev1.Service{}
		return v, &v.ObjectMeta
	case "v1 ServiceAccount":
		v := &corev1.ServiceAccount{}
		return v, &v.ObjectMeta
	case "apps/v1 Deployment":
		v := &appsv1.Deployment{}
		return v, &v.ObjectMeta
	case "batch/v1 Job":
		v := &batchv1.Job{}
		return v, &v.ObjectMeta
	case "policy/v1 PodDisruptionBudget":
		v := &policyv1.PodDisruptionBudget{}
		return v, &v.ObjectMeta
	case "networking.k8s.io/v1 NetworkPolicy":
		v := &networkingv1.NetworkPolicy{}
		return v, &v.ObjectMeta
	case "monitoring.coreos.com/v1 ServiceMonitor":
		v := &serviceMonitor{}
		return v, &v.ObjectMeta
	case "monitoring.coreos.com/v1 PrometheusRule":
		v := &prometheusRule{}
		return v, &v.ObjectMeta
	case "keda.sh/v1alpha1 ScaledObject":
		v := &scaledObject{}
		return v, &v.ObjectMeta
	case "jetstream.nats.io/v1beta2 Stream":
		v := &nackStream{}
		return v, &v.ObjectMeta
	case "jetstream.nats.io/v1beta2 Consumer":
		v := &nackConsumer{}
		return v, &v.ObjectMeta
	}
	return nil, nil
}

// merged are values as helm takes them from several files.
func merged(values ...string) (map[string]any, error) {
	all := map[string]any{}
	for _, text := range values {
		var one map[string]any
		if err := yaml.UnmarshalStrict([]byte(text), &one); err != nil {
			return nil, err
		}
		all = chartutil.CoalesceTables(one, all)
	}
	return all, nil
}

// template renders the chart as helm template does; values are YAML documents, later ones go before.
func template(values ...string) (map[string]string, error) {
	chart, err := loader.LoadDir(chartDir)
	if err != nil {
		return nil, err
	}
	all, err := merged(values...)
	if err != nil {
		return nil, err
	}
	caps := chartutil.DefaultCapabilities.Copy()
	caps.KubeVersion = chartutil.KubeVersion{Version: "v1.33.0", Major: "1", Minor: "33"}
	if !chartutil.IsCompatibleRange(chart.Metadata.KubeVersion, caps.KubeVersion.Version) {
		return nil, fmt.Errorf("the chart refuses Kubernetes %s", caps.KubeVersion.Version)
	}
	options := chartutil.ReleaseOptions{Name: release, Namespace: namespace, IsInstall: true, Revision: 1}
	with, err := chartutil.ToRenderValues(chart, all, options, caps)
	if err != nil {
		return nil, err
	}
	return engine.Render(chart, with)
}

// render renders the chart and decodes everything that comes out of it.
func render(t *testing.T, values ...string) rendered {
	t.Helper()
	files, err := template(values...)
	if err != nil {
		t.Fatal(err)
	}
	objects := rendered{}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(file, "NOTES.txt") {
			continue
		}
		for _, text := range splitYAML(files[file]) {
			o := decode(t, file, text)
			if _, twice := objects[o.kind+" "+o.meta.Name]; twice {
				t.Errorf("%s: %s %s is there twice", file, o.kind, o.meta.Name)
			}
			objects[o.kind+" "+o.meta.Name] = o
		}
	}
	return objects
}

// splitYAML gives the documents of a file that hold more than comments.
func splitYAML(text string) [][]byte {
	var documents [][]byte
	for document := range strings.SplitSeq("\n"+text, "\n---") {
		var content any
		if yaml.Unmarshal([]byte(document), &content) != nil || content != nil {
			documents = append(documents, []byte(document))
		}
	}
	return documents
}

func decode(t *testing.T, file string, text []byte) object {
	t.Helper()
	data, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		t.Fatalf("%s: %v\n%s", file, err, text)
	}
	var head metav1.TypeMeta
	if err := yaml.Unmarshal(text, &head); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	value, meta := newKind(head.APIVersion, head.Kind)
	if value == nil {
		t.Fatalf("%s: nobody here knows a %s of %s", file, head.Kind, head.APIVersion)
	}
	strict, err := sigsjson.UnmarshalStrict(data, value)
	if err != nil || len(strict) > 0 {
		t.Fatalf("%s: %s: %v %v\n%s", file, head.Kind, err, strict, text)
	}
	for _, problem := range validation.IsDNS1123Subdomain(meta.Name) {
		t.Errorf("%s: the name %q: %s", file, meta.Name, problem)
	}
	for label, value := range meta.Labels {
		for _, problem := range append(validation.IsQualifiedName(label), validation.IsValidLabelValue(value)...) {
			t.Errorf("%s: the label %s: %q: %s", file, label, value, problem)
		}
	}
	return object{file: file, text: bytes.TrimSpace(text), meta: *meta, kind: head.Kind, value: value}
}

// get gives a manifest, which must be there.
func get[T any](t *testing.T, objects rendered, kind, name string) *T {
	t.Helper()
	o, ok := objects[kind+" "+name]
	if !ok {
		t.Fatalf("there is no %s %s, only %v", kind, name, slices.Sorted(maps.Keys(objects)))
	}
	value, ok := o.value.(*T)
	if !ok {
		t.Fatalf("%s %s is a %T", kind, name, o.value)
	}
	return value
}

func deployment(t *testing.T, objects rendered) *appsv1.Deployment {
	t.Helper()
	return get[appsv1.Deployment](t, objects, "Deployment", fullname)
}
