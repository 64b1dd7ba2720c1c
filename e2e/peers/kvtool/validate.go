package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"

	cmtypes "github.com/cilium/cilium/pkg/clustermesh/types"
	"github.com/cilium/cilium/pkg/kvstore"
)

// verdict is an answer of `validate`, one a line of input, in its order.
type verdict struct {
	Key      string `json:"key"`
	Kind     string `json:"kind"`
	Valid    bool   `json:"valid"`
	Error    string `json:"error,omitempty"`
	Value    string `json:"value,omitempty"`
	Encoding string `json:"encoding,omitempty"`
}

// validate reads pairs as lines of JSON and tells of each whether Cilium accepts it, and how Cilium would write it.
// A pair runs through the watcher of its kind and cluster, as if an etcd had sent it.
func validate(args []string) error {
	flags := flag.NewFlagSet("validate", flag.ExitOnError)
	var cluster clusterFlags
	cluster.register(flags)
	_ = flags.Parse(args)
	if err := cluster.apply(); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	lanes := map[string]*lane{}
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	decoder, encoder := json.NewDecoder(in), newLineEncoder(out)
	for decoder.More() {
		var p pair
		if err := decoder.Decode(&p); err != nil {
			return fmt.Errorf("cannot parse a line of input: %w", err)
		}
		answer, err := judge(ctx, lanes, p, cluster)
		if err != nil {
			return fmt.Errorf("%s: %w", p.Key, err)
		}
		if err := encoder.Encode(answer); err != nil {
			return err
		}
	}
	return nil
}

func judge(ctx context.Context, lanes map[string]*lane, p pair, cluster clusterFlags) (verdict, error) {
	value, err := p.bytes()
	if err != nil {
		return verdict{}, err
	}
	if strings.HasPrefix(p.Key, kvstore.ClusterConfigPrefix+"/") {
		return judgeConfig(p.Key, value, cluster), nil
	}
	at, known := findPlace(p.Key)
	if !known {
		// Markers and the heartbeat count by being there; Cilium looks into no such value.
		return verdict{Key: p.Key, Kind: "unread", Valid: true}, nil
	}
	who := peer{name: p.Cluster, id: p.ClusterID, cached: at.cached}
	if who.name == "" {
		who.name = at.cluster
	}
	if who.name == "" {
		who.name = cluster.name
	}
	if who.id == 0 {
		who.id = uint32(cluster.id)
	}
	if who.name == "" || who.id == 0 {
		return verdict{}, fmt.Errorf("whose key it is must be said by --cluster and --cluster-id, or cluster and clusterId of the line")
	}
	name := fmt.Sprintf("%s %s %d %t", at.kind.name, who.name, who.id, who.cached)
	if lanes[name] == nil {
		lanes[name] = openLane(ctx, at.kind, who)
	}
	return lanes[name].judge(p.Key, value)
}

func judgeConfig(key string, value []byte, cluster clusterFlags) verdict {
	answer := verdict{Key: key, Kind: "cluster-config"}
	var config cmtypes.CiliumClusterConfig
	if err := json.Unmarshal(value, &config); err != nil {
		answer.Error = err.Error()
		return answer
	}
	if err := cluster.info().ValidateRemoteConfig(config); err != nil {
		answer.Error = err.Error()
		return answer
	}
	again, err := json.Marshal(config)
	if err != nil {
		answer.Error = err.Error()
		return answer
	}
	answer.Valid, answer.Value = true, string(again)
	return answer
}

// lane is a running watcher of one kind of one cluster, fed by hand.
type lane struct {
	kvstore.BackendOperations
	kind   kind
	events chan kvstore.KeyValueEvent
	ended  chan error
	// answer is written by the watcher while it handles an event, and read between events.
	answer verdict
}

func openLane(ctx context.Context, k kind, who peer) *lane {
	l := &lane{kind: k, events: make(chan kvstore.KeyValueEvent), ended: make(chan error, 1)}
	go func() { l.ended <- watch(ctx, k, who, l, l) }()
	return l
}

// ListAndWatch is what the watcher calls instead of etcd's.
func (l *lane) ListAndWatch(context.Context, string) kvstore.EventChan { return l.events }

func (l *lane) judge(key string, value []byte) (verdict, error) {
	l.answer = verdict{Key: key, Kind: l.kind.name, Error: "Cilium's watcher says nothing about it"}
	for _, event := range []kvstore.KeyValueEvent{
		{Typ: kvstore.EventTypeModify, Key: key, Value: value},
		// The channel has no buffer: once this is taken, the event before it has been handled.
		{Typ: kvstore.EventTypeListDone},
	} {
		select {
		case l.events <- event:
		case err := <-l.ended:
			return verdict{}, fmt.Errorf("Cilium's watcher ended: %w", err)
		}
	}
	return l.answer, nil
}

func (l *lane) accepted(_ kind, _ string, value []byte) {
	l.answer.Valid, l.answer.Error = true, ""
	l.answer.Value, l.answer.Encoding = encodeValue(value)
}

func (l *lane) refused(_ kind, _, reason string) { l.answer.Valid, l.answer.Error = false, reason }
func (l *lane) removed(kind, string)             {}
func (l *lane) listed(kind)                      {}
