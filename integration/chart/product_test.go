package chart

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// container is a rendered container on this machine: its mounts lie in a directory of their own.
type container struct {
	args, env []string
}

// contain lays out what a pod's volumes would hold and gives its container. Of a Secret's keys all hold what is made for
// their paths.
func contain(t *testing.T, objects rendered, template corev1.PodTemplateSpec) container {
	t.Helper()
	root := t.TempDir()
	mounts := map[string]string{}
	for _, m := range template.Spec.Containers[0].VolumeMounts {
		mounts[m.Name] = m.MountPath
	}
	write := func(volume, path string, content []byte) {
		file := filepath.Join(root, mounts[volume], path)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	certificate, key := selfSigned(t)
	creds, seed := userOfNATS(t)
	contents := map[string][]byte{
		"client-secret": []byte("hush"), "creds": creds, "nkey": seed,
		"ca.crt": certificate, "tls.crt": certificate, "tls.key": key,
	}
	for _, v := range template.Spec.Volumes {
		switch {
		case v.Secret != nil:
			for _, item := range v.Secret.Items {
				write(v.Name, item.Path, contents[item.Path])
			}
		case len(v.ConfigMap.Items) > 0: // Not one of the chart's.
			for _, item := range v.ConfigMap.Items {
				write(v.Name, item.Path, contents[item.Path])
			}
		default:
			for path, content := range get[corev1.ConfigMap](t, objects, "ConfigMap", v.ConfigMap.Name).Data {
				write(v.Name, path, []byte(content))
			}
		}
	}
	c := container{args: template.Spec.Containers[0].Args}
	for _, e := range template.Spec.Containers[0].Env {
		value := e.Value
		if e.ValueFrom != nil {
			value = "from-a-secret"
		}
		if strings.HasPrefix(value, "/") {
			value = root + value
		}
		c.env = append(c.env, e.Name+"="+value)
	}
	return c
}

// userOfNATS is a user's credentials file, and his key.
func userOfNATS(t *testing.T) (creds, seed []byte) {
	t.Helper()
	account, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := user.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.NewUserClaims(public).Encode(account)
	if err != nil {
		t.Fatal(err)
	}
	if seed, err = user.Seed(); err != nil {
		t.Fatal(err)
	}
	if creds, err = jwt.FormatUserConfig(token, seed); err != nil {
		t.Fatal(err)
	}
	return creds, seed
}

// selfSigned is a certificate and its key, as PEM.
func selfSigned(t *testing.T) (certificate, private []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text})
}

// run runs the binary with an environment and nothing else, and gives what it printed.
func (c container) run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, programs.kexrelay, args...)
	cmd.Env = append([]string{"HOME=" + t.TempDir()}, c.env...)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w\n%s", err, complaints.String())
	}
	return out.String(), nil
}

// setting is a line of `config print -o json`.
type setting struct{ Key, Value, Source, Env string }

func settings(t *testing.T, c container) []setting {
	t.Helper()
	text, err := c.run(t, "config", "print", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var all []setting
	for line := range strings.Lines(text) {
		var s setting
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

// The real relay takes every rendered configuration, and knows every variable that is set.
func TestTheRelayAcceptsWhatIsRendered(t *testing.T) {
	t.Parallel()
	for name, values := range variants {
		objects := render(t, values...)
		c := contain(t, objects, deployment(t, objects).Spec.Template)
		if out, err := c.run(t, "config", "check"); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
			continue
		}
		known := map[string]setting{}
		for _, s := range settings(t, c) {
			known[s.Env] = s
		}
		pods := allPods(t, objects)
		for pod, template := range pods {
			for _, e := range template.Spec.Containers[0].Env {
				s, ok := known[e.Name]
				switch {
				case strings.HasPrefix(e.Name, "OTEL_"), slices.Contains([]string{"HTTPS_PROXY", "NO_PROXY"}, e.Name):
				case !ok:
					t.Errorf("%s, %s: kexrelay knows no %s", name, pod, e.Name)
				case pod == "Deployment" && s.Source != "env":
					t.Errorf("%s: %s comes from %q", name, e.Name, s.Source)
				}
			}
		}
	}
}

// Every option is either a value under config, of a value of its own, or left out on purpose.
func TestTheSchemaKnowsEveryOption(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(chartDir + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	type node struct{ Properties map[string]json.RawMessage }
	var schema struct{ Properties struct{ Config node } }
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	var inSchema []string
	for key, value := range schema.Properties.Config.Properties {
		var child node
		if err := json.Unmarshal(value, &child); err != nil {
			t.Fatal(err)
		}
		if len(child.Properties) == 0 {
			inSchema = append(inSchema, key)
		}
		for inner := range child.Properties {
			inSchema = append(inSchema, key+"."+inner)
		}
	}
	other := []string{
		// Values of their own.
		"kex.client-secret-file", "kex.ca-file", "http-addr", "config",
		"nats.creds", "nats.nkey", "nats.user", "nats.password", "nats.cert", "nats.key", "nats.ca",
		// A secret as a value, and what is for other machines.
		"kex.client-secret", "nats.context", "embedded", "embedded-dir", "embedded-addr", "embedded-config", "embedded-sync",
	}
	objects := render(t, everything)
	var options []string
	for _, s := range settings(t, contain(t, objects, deployment(t, objects).Spec.Template)) {
		options = append(options, s.Key)
		// Impersonation adds to the scopes; a domain and a prefix cannot both be set.
		if slices.Contains(inSchema, s.Key) && s.Source != "file" && s.Key != "kex.scopes" && s.Key != "nats.js-api-prefix" {
			t.Errorf("the values set %s, it comes from %q", s.Key, s.Source)
		}
	}
	for _, option := range options {
		if slices.Contains(inSchema, option) == slices.Contains(other, option) {
			t.Errorf("%s: in the schema %t, told here why not %t", option, slices.Contains(inSchema, option), slices.Contains(other, option))
		}
	}
	for _, key := range append(inSchema, other...) {
		if !slices.Contains(options, key) {
			t.Errorf("kexrelay has no option %s", key)
		}
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // its port is what was wanted
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// start runs a program until the test ends.
func start(t *testing.T, env []string, program string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = append([]string{"HOME=" + t.TempDir()}, env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s\n%s", filepath.Base(program), out.String())
		}
	})
	return cmd
}

// startNATS starts a server with JetStream and gives its URL once it listens.
func startNATS(t *testing.T) string {
	t.Helper()
	port := freePort(t)
	start(t, nil, programs.natsServer, "--jetstream", "--addr", "127.0.0.1", "--port", port, "--store_dir", t.TempDir())
	eventually(t, "nats-server listens", func() bool {
		conn, err := net.DialTimeout("tcp", "127.0.0.1:"+port, time.Second)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
	return "nats://127.0.0.1:" + port
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// The job's command sets up a real NATS, and the deployment's command answers every probe with 200, where the probe asks.
func TestJobAndProbesAgainstTheRealPrograms(t *testing.T) {
	t.Parallel()
	url := startNATS(t)
	nowhere := "http://127.0.0.1:" + freePort(t)
	values, err := yaml.Marshal(map[string]any{
		"config": map[string]any{
			"kex":  map[string]any{"client-id": "x", "base-url": nowhere, "token-url": nowhere},
			"nats": map[string]any{"url": url},
		},
		"topology": map[string]any{
			"partitions": 2, "replicas": 1, "storage": "file", "resultAge": "48h",
			"maxBytes": map[string]any{"KEX_UPDATES": "64MiB", "KEX_DEADLETTERS": "32MiB", "KEX_DOCUMENTS": "64MiB", "KEX_RESULTS": "unlimited"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	objects := render(t, string(values))
	job := contain(t, objects, get[batchv1.Job](t, objects, "Job", fullname+"-setup").Spec.Template)
	if out, err := job.run(t, job.args...); err != nil || !strings.Contains(out, "consumer relay-1: created") {
		t.Fatalf("%v: %v\n%s", job.args, err, out)
	}
	template := deployment(t, objects).Spec.Template
	relay, port := contain(t, objects, template), freePort(t)
	for i, e := range relay.env {
		if e == "KEXRELAY_HTTP_ADDR=:8080" {
			relay.env[i] = "KEXRELAY_HTTP_ADDR=127.0.0.1:" + port
		}
	}
	start(t, relay.env, programs.kexrelay, relay.args...)
	c := template.Spec.Containers[0]
	for name, probe := range map[string]*corev1.Probe{"startup": c.StartupProbe, "liveness": c.LivenessProbe, "readiness": c.ReadinessProbe} {
		if probe.HTTPGet.Port.StrVal != c.Ports[0].Name || strconv.Itoa(int(c.Ports[0].ContainerPort)) != "8080" {
			t.Errorf("%s asks port %v, the container listens on %v", name, probe.HTTPGet.Port, c.Ports)
		}
		eventually(t, name+" probe is answered at "+probe.HTTPGet.Path, func() bool {
			answer, err := http.Get("http://127.0.0.1:" + port + probe.HTTPGet.Path)
			return err == nil && answer.Body.Close() == nil && answer.StatusCode == http.StatusOK
		})
	}
	if c.LivenessProbe.HTTPGet.Path == c.ReadinessProbe.HTTPGet.Path {
		t.Error("a relay without NATS would be killed")
	}
}
