// Command image builds what kexrelay's container image is made of: the static binary and the list of its parts (SBOM),
// with the times of the commit, for deploy/Dockerfile. With --archive it writes the whole image itself, for `docker load`
// or any tool that takes an OCI layout: byte for byte the same for the same commit, Go version and architecture.
//
//	go run ./deploy/image
//	go run ./deploy/image --version v1.2.3 --archive bin/kexrelay.tar
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
)

func main() {
	var o options
	flag.StringVar(&o.out, "out", "bin", "the directory to write image, image.args and sbom.cdx.json into")
	flag.StringVar(&o.archive, "archive", "", "write the image into this file too, as docker load and OCI tools take it")
	flag.StringVar(&o.name, "name", "kexrelay:local", "the image's name in the archive")
	flag.StringVar(&o.version, "version", "", "the release's version, v1.2.3; the commit's if not given")
	flag.StringVar(&o.arch, "arch", runtime.GOARCH, "the architecture, amd64 or arm64")
	flag.Parse()
	o.epoch = os.Getenv("SOURCE_DATE_EPOCH")
	o.environment = os.Environ()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	said, err := o.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
	fmt.Fprint(os.Stderr, said)
}
