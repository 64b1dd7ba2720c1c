package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cilium/cilium/pkg/clustermesh/types"
	"github.com/cilium/cilium/pkg/kvstore"
	"github.com/cilium/cilium/pkg/kvstore/store"
)

// change is a line of the input of `publish`.
type change struct {
	// Op is put or delete. A put value is decoded and written again by Cilium's types.
	Op string `json:"op"`
	pair
}

// publish writes a cluster as Cilium's clustermesh-apiserver does: its configuration, each kind through a SyncStore
// with its synced marker, and the heartbeat. A random cluster of the asked size comes first; then it takes changes
// from standard input until that ends, which ends it too, or with --once it ends when the markers are written.
// What it wrote stays until its lease ends.
func publish(args []string) error {
	flags := flag.NewFlagSet("publish", flag.ExitOnError)
	var cluster clusterFlags
	var etcd etcdFlags
	cluster.register(flags)
	etcd.register(flags)
	once := flags.Bool("once", false, "end when everything is written")
	seed := flags.Uint64("seed", 1, "of the random cluster")
	sizes := map[string]*int{}
	for _, k := range kinds {
		sizes[k.name] = flags.Int(k.name, 0, "how many random entries of this kind")
	}
	_ = flags.Parse(args)
	if err := cluster.apply(); err != nil {
		return err
	}
	if err := cluster.info().ValidateStrict(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	client, err := etcd.open(ctx)
	if err != nil {
		return err
	}
	defer client.Close()

	config := types.CiliumClusterConfig{ID: uint32(cluster.id)}
	config.Capabilities.SyncedCanaries = true
	config.Capabilities.MaxConnectedClusters = uint32(cluster.maxClusters)
	publishedConfig(&config)
	stopEnforcing, err := enforceClusterConfig(ctx, cluster.name, config, client)
	if err != nil {
		return fmt.Errorf("cannot write the cluster's configuration: %w", err)
	}
	defer stopEnforcing()

	running, end := context.WithCancel(ctx)
	var wait sync.WaitGroup
	defer wait.Wait()
	defer end()
	stores := map[string]store.SyncStore{}
	factory := newFactory(newLog())
	for _, k := range kinds {
		synced := factory.NewSyncStore(cluster.name, client, k.state,
			store.WSSWithSyncedKeyOverride(k.base), store.WSSWithWorkers(4))
		stores[k.name] = synced
		wait.Add(1)
		go func() {
			defer wait.Done()
			synced.Run(running)
		}()
	}
	wait.Add(1)
	go func() {
		defer wait.Done()
		beat(running, client)
	}()

	random := generator{Rand: rand.New(rand.NewPCG(*seed, 0)), cluster: cluster.name, id: uint32(cluster.id), maxClusters: uint32(cluster.maxClusters)}
	written, err := fill(ctx, stores, random, sizes)
	if err != nil {
		return err
	}
	var marked sync.WaitGroup
	for _, synced := range stores {
		marked.Add(1)
		if err := synced.Synced(ctx, func(context.Context) { marked.Done() }); err != nil {
			return err
		}
	}
	all := make(chan struct{})
	go func() {
		marked.Wait()
		close(all)
	}()
	select {
	case <-all:
	case <-ctx.Done():
		return ctx.Err()
	}
	encoder := newLineEncoder(os.Stdout)
	if err := encoder.Encode(struct {
		Event string `json:"event"`
		Keys  int    `json:"keys"`
	}{"synced", written}); err != nil {
		return err
	}
	if *once {
		return nil
	}
	return follow(ctx, stores)
}

// fill queues the random cluster.
func fill(ctx context.Context, stores map[string]store.SyncStore, random generator, sizes map[string]*int) (int, error) {
	made := whole{generator: random, nodes: *sizes[nodes.name], pods: *sizes[ips.name]}
	written := 0
	for _, k := range append([]kind{identities, nodes, services, ips}, laterKinds...) {
		for i := range *sizes[k.name] {
			if err := stores[k.name].UpsertKey(ctx, made.entry(k, i)); err != nil {
				return written, err
			}
			written++
		}
	}
	return written, nil
}

// follow applies changes from standard input until it ends.
func follow(ctx context.Context, stores map[string]store.SyncStore) error {
	lines := make(chan error, 1)
	go func() {
		decoder := json.NewDecoder(bufio.NewReader(os.Stdin))
		for {
			var line change
			err := decoder.Decode(&line)
			if err == nil {
				err = apply(ctx, stores, line)
			}
			if err != nil {
				lines <- err
				return
			}
		}
	}()
	select {
	case <-ctx.Done():
		return nil
	case err := <-lines:
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
}

func apply(ctx context.Context, stores map[string]store.SyncStore, line change) error {
	at, known := findPlace(line.Key)
	if !known || at.cached {
		return fmt.Errorf("%s: not a key that a cluster publishes", line.Key)
	}
	name := strings.TrimPrefix(line.Key, at.kind.state+"/")
	switch line.Op {
	case "delete":
		return stores[at.kind.name].DeleteKey(ctx, store.NewKVPair(name, ""))
	case "put":
		value, err := line.bytes()
		if err != nil {
			return err
		}
		entry := newKey(at.kind)
		if err := entry.Unmarshal(name, value); err != nil {
			return fmt.Errorf("%s: %w", line.Key, err)
		}
		return stores[at.kind.name].UpsertKey(ctx, entry)
	default:
		return fmt.Errorf("unknown op %q: expected put or delete", line.Op)
	}
}

// beat keeps the heartbeat, as Cilium's heartbeat cell does.
func beat(ctx context.Context, client kvstore.BackendOperations) {
	for {
		if err := client.Update(ctx, kvstore.HeartbeatPath, []byte(time.Now().Format(time.RFC3339)), true); err != nil && ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "cannot write the heartbeat: %v\n", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(kvstore.HeartbeatWriteInterval):
		}
	}
}
