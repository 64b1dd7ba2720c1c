package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/cilium/cilium/pkg/kvstore/store"
)

// list reads a prefix once with Cilium's store and decoders, and prints how many entries it holds then and how long
// it took: {"count":N,"seconds":S}. The connection is made before the clock starts.
func list(args []string) error {
	flags := flag.NewFlagSet("list", flag.ExitOnError)
	var cluster clusterFlags
	var etcd etcdFlags
	cluster.register(flags)
	etcd.register(flags)
	prefix := flags.String("prefix", "cilium/state/ip/v1/default/", "what to list")
	timeout := flags.Duration("timeout", 5*time.Minute, "how long it may take")
	_ = flags.Parse(args)
	if err := cluster.apply(); err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(context.Background(), *timeout)
	defer stop()
	client, err := etcd.open(ctx)
	if err != nil {
		return err
	}
	defer client.Close()

	creator := store.KVPairCreator
	if at, known := findPlace(strings.TrimSuffix(*prefix, "/") + "/"); known {
		creator = func() store.Key { return newKey(at.kind) }
	}
	started := time.Now()
	watching, done := context.WithCancel(ctx)
	watcher := newFactory(newLog()).NewWatchStore(cluster.name, creator, ignore{},
		store.RWSWithOnSyncCallback(func(context.Context) { done() }))
	watcher.Watch(watching, client, *prefix)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("the list was not done within %s: %w", *timeout, err)
	}
	return newLineEncoder(os.Stdout).Encode(struct {
		Count   uint64  `json:"count"`
		Seconds float64 `json:"seconds"`
	}{watcher.NumEntries(), time.Since(started).Seconds()})
}

type ignore struct{}

func (ignore) OnUpdate(store.Key)      {}
func (ignore) OnDelete(store.NamedKey) {}
