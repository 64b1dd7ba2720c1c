package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/cilium/cilium/pkg/clustermesh/types"
	"github.com/cilium/cilium/pkg/kvstore"
)

// report is a line of `read`.
type report struct {
	// Event is config, accepted, removed, refused, listed or synced.
	Event    string `json:"event"`
	Kind     string `json:"kind,omitempty"`
	Key      string `json:"key,omitempty"`
	Value    string `json:"value,omitempty"`
	Encoding string `json:"encoding,omitempty"`
	Error    string `json:"error,omitempty"`
}

// read follows a cluster as a Cilium agent and operator do: its configuration first, then each kind after its synced
// marker. It prints what it accepts and refuses until it is ended, or with --once until all kinds are listed.
func read(args []string) error {
	flags := flag.NewFlagSet("read", flag.ExitOnError)
	var cluster clusterFlags
	var etcd etcdFlags
	cluster.register(flags)
	etcd.register(flags)
	once := flags.Bool("once", false, "end when every kind has been listed")
	timeout := flags.Duration("timeout", time.Minute, "how long the configuration, and with --once all of it, may take")
	_ = flags.Parse(args)
	if err := cluster.apply(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	client, err := etcd.open(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	deadline, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	config, err := waitForConfig(deadline, client, cluster)
	if err != nil {
		return err
	}
	published := slices.DeleteFunc(slices.Clone(kinds), func(k kind) bool { return !announced(k, config) })
	out := &printer{encoder: newLineEncoder(os.Stdout), left: len(published), all: make(chan struct{})}
	value, err := json.Marshal(config)
	if err != nil {
		return err
	}
	out.print(report{Event: "config", Value: string(value)})

	manager := newFactory(newLog()).NewWatchStoreManager(client, cluster.name)
	who := peer{name: cluster.name, id: config.ID, cached: config.Capabilities.Cached}
	for _, k := range published {
		manager.Register(k.marker(who.cached), func(ctx context.Context) {
			if err := watch(ctx, k, who, client, out); err != nil {
				out.refused(k, "", err.Error())
			}
		})
	}
	running, end := context.WithCancel(ctx)
	defer end()
	var wait sync.WaitGroup
	wait.Add(1)
	go func() {
		defer wait.Done()
		manager.Run(running)
	}()
	if !*once {
		<-ctx.Done()
		wait.Wait()
		return nil
	}
	select {
	case <-out.all:
	case <-deadline.Done():
		err = fmt.Errorf("not every kind was listed within %s: is each synced marker there?", *timeout)
	}
	end()
	wait.Wait()
	return err
}

// waitForConfig waits as Cilium does until the cluster's configuration is there and valid.
func waitForConfig(ctx context.Context, client kvstore.BackendOperations, cluster clusterFlags) (types.CiliumClusterConfig, error) {
	var last error
	for {
		config, err := getClusterConfig(ctx, cluster.name, client)
		if err == nil {
			err = cluster.info().ValidateRemoteConfig(config)
		}
		if err == nil && cluster.id != 0 && config.ID != uint32(cluster.id) {
			err = fmt.Errorf("its id is %d, expected %d", config.ID, cluster.id)
		}
		if err == nil {
			return config, nil
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			last = err
		}
		select {
		case <-ctx.Done():
			return config, fmt.Errorf("no usable configuration of cluster %s: %w", cluster.name, last)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// printer prints verdicts as lines of JSON; the watchers of all kinds call it at once.
type printer struct {
	mutex   sync.Mutex
	encoder *json.Encoder
	left    int
	all     chan struct{}
}

func (p *printer) print(line report) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.write(line)
}

func (p *printer) write(line report) {
	if err := p.encoder.Encode(line); err != nil {
		fmt.Fprintf(os.Stderr, "cannot print: %v\n", err)
		os.Exit(1)
	}
}

func (p *printer) accepted(k kind, key string, value []byte) {
	text, encoding := encodeValue(value)
	p.print(report{Event: "accepted", Kind: k.name, Key: key, Value: text, Encoding: encoding})
}

func (p *printer) removed(k kind, key string) {
	p.print(report{Event: "removed", Kind: k.name, Key: key})
}

func (p *printer) refused(k kind, key, reason string) {
	p.print(report{Event: "refused", Kind: k.name, Key: key, Error: reason})
}

func (p *printer) listed(k kind) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.write(report{Event: "listed", Kind: k.name})
	p.left--
	if p.left == 0 {
		p.write(report{Event: "synced"})
		close(p.all)
	}
}
