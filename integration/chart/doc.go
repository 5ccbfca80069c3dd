// Package chart has no code but tests: of the Helm chart and the NACK manifests in deploy, against Helm's own engine, the
// types of Kubernetes and the real programs. It is a module of its own, so that nothing of Helm and Kubernetes gets into
// kexrelay's.
//
//	cd integration/chart && go test ./...
package chart
