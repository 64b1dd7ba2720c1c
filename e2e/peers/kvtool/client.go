package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/cilium/cilium/pkg/kvstore"
)

// etcdFlags say how to reach an etcd and how fast Cilium's client may ask.
type etcdFlags struct {
	config   string
	endpoint string
	qps      uint
	limit    uint
	leaseTTL time.Duration
}

func (e *etcdFlags) register(flags *flag.FlagSet) {
	flags.StringVar(&e.config, "etcd-config", "", "etcd client file (YAML: endpoints, trusted-ca-file, cert-file, key-file)")
	flags.StringVar(&e.endpoint, "endpoint", "", "URL of an etcd without TLS, instead of a file")
	flags.UintVar(&e.qps, "qps", 20, "requests a second; 20 is Cilium's default")
	flags.UintVar(&e.limit, "page", 256, "keys a page of a list; 256 is Cilium's default")
	flags.DurationVar(&e.leaseTTL, "lease-ttl", 15*time.Minute, "life of the lease of what is written")
}

// open connects as Cilium's clients of remote clusters do: without the probe that needs write rights.
func (e *etcdFlags) open(ctx context.Context) (kvstore.BackendOperations, error) {
	options := map[string]string{
		kvstore.EtcdRateLimitOption: strconv.FormatUint(uint64(e.qps), 10),
		kvstore.EtcdListLimitOption: strconv.FormatUint(uint64(e.limit), 10),
	}
	switch {
	case e.config != "":
		options[kvstore.EtcdOptionConfig] = e.config
	case e.endpoint != "":
		options[kvstore.EtcdAddrOption] = e.endpoint
	default:
		return nil, fmt.Errorf("which etcd must be said by --etcd-config or --endpoint")
	}
	client, failed := newClient(ctx, newLog(), options, kvstore.ExtraOptions{NoLockQuorumCheck: true, LeaseTTL: e.leaseTTL})
	if err := <-failed; err != nil {
		return nil, fmt.Errorf("cannot connect to etcd: %w", err)
	}
	return client, nil
}

// newLog is where Cilium's code reports its own troubles: standard error.
func newLog() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}
