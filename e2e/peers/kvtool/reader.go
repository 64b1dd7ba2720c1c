package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path"
	_ "unsafe" // for linkname

	"github.com/cilium/cilium/pkg/allocator"
	"github.com/cilium/cilium/pkg/clustermesh/store"
	"github.com/cilium/cilium/pkg/identity"
	"github.com/cilium/cilium/pkg/idpool"
	"github.com/cilium/cilium/pkg/ipcache"
	"github.com/cilium/cilium/pkg/kvstore"
	kvstoreStore "github.com/cilium/cilium/pkg/kvstore/store"
	nodeStore "github.com/cilium/cilium/pkg/node/store"
	"github.com/cilium/cilium/pkg/source"
)

// Cilium's own checks of a peer's identities, which it does not export.

//go:linkname clusterIDValidator github.com/cilium/cilium/pkg/identity/cache.clusterIDValidator
func clusterIDValidator(clusterID uint32) allocator.CacheValidator

//go:linkname clusterNameValidator github.com/cilium/cilium/pkg/identity/cache.clusterNameValidator
func clusterNameValidator(clusterName string) allocator.CacheValidator

// verdicts hears what Cilium's code makes of each pair.
type verdicts interface {
	// accepted gets the key below its prefix and the value as this version of Cilium would write it.
	accepted(k kind, key string, value []byte)
	removed(k kind, key string)
	// refused gets Cilium's own words; the key is empty where they name none.
	refused(k kind, key, reason string)
	// listed says that what was there at the start has been read.
	listed(k kind)
}

// peer is whose keys a watcher takes for good.
type peer struct {
	name   string
	id     uint32
	cached bool
}

// watch reads one kind of a peer as Cilium's agent and operator do, until the context ends.
func watch(ctx context.Context, k kind, p peer, backend kvstore.BackendOperations, out verdicts) error {
	log := slog.New(refusalHandler{kind: k, out: out})
	switch k.name {
	case identities.name:
		return watchIdentities(ctx, p, backend, out, log)
	case ips.name:
		watchIPs(ctx, p, backend, out, log)
	default:
		watchStore(ctx, k, keyCreator(k, p), storeObserver{kind: k, out: out}, p, backend, out, log)
	}
	return nil
}

func watchStore(
	ctx context.Context, k kind, creator kvstoreStore.KeyCreator, observer kvstoreStore.Observer,
	p peer, backend kvstore.BackendOperations, out verdicts, log *slog.Logger,
) {
	watcher := newFactory(log).NewWatchStore(p.name, creator, observer,
		kvstoreStore.RWSWithOnSyncCallback(func(context.Context) { out.listed(k) }))
	watcher.Watch(ctx, backend, k.prefix(p.name, p.cached))
}

func keyCreator(k kind, p peer) kvstoreStore.KeyCreator {
	id := p.id
	switch k.name {
	case nodes.name:
		return nodeStore.ValidatingKeyCreator(
			nodeStore.ClusterNameValidator(p.name), nodeStore.NameValidator(), nodeStore.ClusterIDValidator(&id))
	case services.name:
		return store.KeyCreator(
			store.ClusterNameValidator(p.name), store.NamespacedNameValidator(), store.ClusterIDValidator(&id))
	default:
		return laterKeyCreator(k, p.name, &id)
	}
}

// storeObserver hears of keys that passed their type's own decoder and validators.
type storeObserver struct {
	kind kind
	out  verdicts
}

func (o storeObserver) OnUpdate(k kvstoreStore.Key) {
	value, err := k.Marshal()
	if err != nil {
		o.out.refused(o.kind, k.GetKeyName(), err.Error())
		return
	}
	o.out.accepted(o.kind, k.GetKeyName(), value)
}

func (o storeObserver) OnDelete(k kvstoreStore.NamedKey) { o.out.removed(o.kind, k.GetKeyName()) }

// watchIPs puts Cilium's IPIdentityWatcher behind the store: its rules decide, and the pair is still at hand.
func watchIPs(ctx context.Context, p peer, backend kvstore.BackendOperations, out verdicts, log *slog.Logger) {
	cache := &ipCache{}
	watcher := ipcache.NewIPIdentityWatcher(log, p.name, cache, newFactory(log), source.ClusterMesh)
	// Its validators are set by Watch alone; without events it returns at once.
	watcher.Watch(ctx, closedBackend{}, ipcache.WithIdentityValidator(p.id))
	observer := ipObserver{cache: cache, watcher: watcher, out: out}
	creator := func() kvstoreStore.Key { return &identity.IPIdentityPair{} }
	watchStore(ctx, ips, creator, observer, p, backend, out, log)
}

type ipObserver struct {
	cache   *ipCache
	watcher *ipcache.IPIdentityWatcher
	out     verdicts
}

func (o ipObserver) OnUpdate(k kvstoreStore.Key) {
	o.cache.upserted = false
	o.watcher.OnUpdate(k)
	if o.cache.upserted {
		storeObserver{kind: ips, out: o.out}.OnUpdate(k)
	}
}

func (o ipObserver) OnDelete(k kvstoreStore.NamedKey) { o.out.removed(ips, k.GetKeyName()) }

// ipCache stands where the agent's ipcache is, to see what reaches it.
type ipCache struct{ upserted bool }

func (c *ipCache) Upsert(string, net.IP, uint8, *ipcache.K8sMetadata, ipcache.Identity) (bool, error) {
	c.upserted = true
	return false, nil
}

func (c *ipCache) Delete(string, source.Source) bool { return false }

// watchIdentities runs the reading half of the allocator of a remote cluster.
func watchIdentities(ctx context.Context, p peer, backend kvstore.BackendOperations, out verdicts, log *slog.Logger) error {
	base := identities.base
	if p.cached {
		base = path.Join(kvstore.StateToCachePrefix(base), p.name)
	}
	remote, err := newAllocatorBackend(log, base, backend)
	if err != nil {
		return fmt.Errorf("cannot make Cilium's identity backend: %w", err)
	}
	remote.ListAndWatch(ctx, identityEvents{
		validators: []allocator.CacheValidator{clusterIDValidator(p.id), clusterNameValidator(p.name)},
		out:        out,
	})
	return nil
}

// identityEvents does with an event what Cilium's allocator cache does before it believes one.
type identityEvents struct {
	validators []allocator.CacheValidator
	out        verdicts
}

func (e identityEvents) OnListDone() { e.out.listed(identities) }

func (e identityEvents) OnUpsert(id idpool.ID, ak allocator.AllocatorKey) {
	for _, validate := range e.validators {
		if err := validate(allocator.AllocatorChangeUpsert, id, ak); err != nil {
			e.out.refused(identities, id.String(), err.Error())
			return
		}
	}
	e.out.accepted(identities, id.String(), []byte(ak.GetKey()))
}

func (e identityEvents) OnDelete(id idpool.ID, _ allocator.AllocatorKey) {
	e.out.removed(identities, id.String())
}

// closedBackend has no events.
type closedBackend struct{}

func (closedBackend) ListAndWatch(context.Context, string) kvstore.EventChan {
	events := make(chan kvstore.KeyValueEvent)
	close(events)
	return events
}

// refusalHandler turns what Cilium's stores warn of into verdicts: they tell of a refused value in the log only.
type refusalHandler struct {
	kind kind
	out  verdicts
	// key and reason come with the logger where it was made for one entry.
	key, reason string
}

func (h refusalHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn
}

func (h refusalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, attr := range attrs {
		h.take(attr)
	}
	return h
}

func (h refusalHandler) WithGroup(string) slog.Handler { return h }

func (h refusalHandler) Handle(_ context.Context, record slog.Record) error {
	record.Attrs(func(attr slog.Attr) bool {
		h.take(attr)
		return true
	})
	if h.reason == "" {
		h.reason = record.Message
	}
	h.out.refused(h.kind, h.key, h.reason)
	return nil
}

func (h *refusalHandler) take(attr slog.Attr) {
	switch attr.Key {
	case "key", "ipAddr", "identity":
		h.key = attr.Value.String()
	case "error":
		h.reason = attr.Value.String()
	}
}
