// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Stands in for Hyper-V's bus where there is no Hyper-V, with one channel: Dynamic Memory's.
 *
 * The kernel's own hv_balloon takes five functions of the bus from here, and its messages travel
 * through /dev/vmbus_stand_in, both ways as a stream of frames: u32 length, little-endian, and so
 * many bytes of message. Reads and writes may cut a frame anywhere.
 *
 * While a program has the device open, the bus offers the channel, and the driver is bound to it.
 * When the program closes it, the channel is taken away, as a host does that goes: the driver
 * leaves, and begins anew at the next offer. What was under way is forgotten in both directions.
 *
 * Each direction holds `ring` bytes, as the bus's rings do. The driver that finds no room is told
 * -EAGAIN; the program that finds none waits.
 */
#include <linux/fs.h>
#include <linux/hyperv.h>
#include <linux/interrupt.h>
#include <linux/kfifo.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <asm/unaligned.h>

#define MESSAGE_BYTES_MAX 4096	/* what the driver has room for */
#define PREFIX_BYTES sizeof(__le32)

static unsigned int ring = 16384;
module_param(ring, uint, 0444);
MODULE_PARM_DESC(ring, "bytes held in each direction; a power of two");

static unsigned long full;
module_param(full, ulong, 0444);
MODULE_PARM_DESC(full, "times that a message of the driver found no room");

/* One direction: whole messages, each a record. */
struct direction {
	struct kfifo_rec_ptr_2 messages;
	spinlock_t lock;
	wait_queue_head_t changed;
};

static struct direction to_host, to_guest;

/* The frame that a program is in the middle of, one for each direction. */
struct frame {
	struct mutex lock;
	size_t at, end;
	u8 bytes[PREFIX_BYTES + MESSAGE_BYTES_MAX];
};

static struct frame reading, writing;

/* A channel and the device behind it live from one offer until the bus takes it away. */
struct offer {
	struct hv_device device;
	struct vmbus_channel channel;
};

static struct offer *offered;
static unsigned long is_open;

static bool put_message(struct direction *way, const void *message, unsigned int length)
{
	bool fits = kfifo_in_spinlocked(&way->messages, message, length, &way->lock) == length;

	if (fits)
		wake_up_interruptible(&way->changed);
	return fits;
}

static unsigned int take_message(struct direction *way, void *room, unsigned int room_bytes)
{
	unsigned int length = kfifo_out_spinlocked(&way->messages, room, room_bytes, &way->lock);

	if (length)
		wake_up_interruptible(&way->changed);
	return length;
}

/* The bus, as the driver sees it. */

int vmbus_open(struct vmbus_channel *channel, u32 send_bytes, u32 receive_bytes, void *data,
	       u32 data_bytes, void (*callback)(void *context), void *context)
{
	channel->channel_callback_context = context;
	smp_store_release(&channel->onchannel_callback, callback);
	channel->state = CHANNEL_OPENED_STATE;
	return 0;
}
EXPORT_SYMBOL_GPL(vmbus_open);

void vmbus_close(struct vmbus_channel *channel)
{
	channel->state = CHANNEL_OPEN_STATE;
	WRITE_ONCE(channel->onchannel_callback, NULL);
	tasklet_unlock_wait(&channel->callback_event);
}
EXPORT_SYMBOL_GPL(vmbus_close);

int vmbus_sendpacket(struct vmbus_channel *channel, void *message, u32 length, u64 request,
		     enum vmbus_packet_type type, u32 flags)
{
	if (length > MESSAGE_BYTES_MAX)
		return -EMSGSIZE;
	if (put_message(&to_host, message, length))
		return 0;
	full++;
	return -EAGAIN;
}
EXPORT_SYMBOL(vmbus_sendpacket);

int vmbus_recvpacket(struct vmbus_channel *channel, void *room, u32 room_bytes, u32 *length,
		     u64 *request)
{
	*request = 0;
	*length = take_message(&to_guest, room, room_bytes);
	return 0;
}
EXPORT_SYMBOL(vmbus_recvpacket);

/* The driver takes one message each time it is called, where it may not sleep. */
static void hand_over(struct tasklet_struct *tasklet)
{
	struct vmbus_channel *channel = from_tasklet(channel, tasklet, callback_event);
	void (*callback)(void *context) = smp_load_acquire(&channel->onchannel_callback);

	if (!callback || kfifo_is_empty(&to_guest.messages))
		return;
	callback(channel->channel_callback_context);
	if (!kfifo_is_empty(&to_guest.messages))
		tasklet_schedule(tasklet);
}

static struct hv_driver *driver_of(struct device_driver *driver)
{
	return container_of(driver, struct hv_driver, driver);
}

static int bus_match(struct device *device, struct device_driver *driver)
{
	const struct hv_vmbus_device_id *id = driver_of(driver)->id_table;

	return id && guid_equal(&id->guid, &device_to_hv_device(device)->dev_type);
}

static int bus_probe(struct device *device)
{
	struct hv_driver *driver = driver_of(device->driver);

	return driver->probe(device_to_hv_device(device), driver->id_table);
}

static void bus_remove(struct device *device)
{
	struct hv_driver *driver = driver_of(device->driver);

	if (driver->remove)
		driver->remove(device_to_hv_device(device));
}

static struct bus_type bus = {
	.name = "vmbus_stand_in",
	.match = bus_match,
	.probe = bus_probe,
	.remove = bus_remove,
};

int __vmbus_driver_register(struct hv_driver *driver, struct module *owner, const char *name)
{
	driver->driver.name = driver->name;
	driver->driver.owner = owner;
	driver->driver.mod_name = name;
	driver->driver.bus = &bus;
	spin_lock_init(&driver->dynids.lock);
	INIT_LIST_HEAD(&driver->dynids.list);
	return driver_register(&driver->driver);
}
EXPORT_SYMBOL_GPL(__vmbus_driver_register);

/* The channel is offered and taken away. */

static void free_offer(struct device *device)
{
	kfree(container_of(device_to_hv_device(device), struct offer, device));
}

/* In a job of its own: the driver's probe waits for the host, which the opener lets speak. */
static void make_offer(struct work_struct *work)
{
	const struct hv_vmbus_device_id id = { HV_DM_GUID };
	struct offer *offer = kzalloc(sizeof(*offer), GFP_KERNEL);

	if (!offer)
		return;
	offer->channel.state = CHANNEL_OPEN_STATE;
	offer->channel.device_obj = &offer->device;
	offer->channel.offermsg.offer.if_type = id.guid;
	tasklet_setup(&offer->channel.callback_event, hand_over);
	offer->device.dev_type = id.guid;
	offer->device.channel = &offer->channel;
	offer->device.device.bus = &bus;
	offer->device.device.release = free_offer;
	dev_set_name(&offer->device.device, "dynamic_memory");
	/* Before the driver is bound: the host may answer while it still is. */
	smp_store_release(&offered, offer);
	if (device_register(&offer->device.device)) {
		smp_store_release(&offered, NULL);
		put_device(&offer->device.device);
	}
}

static DECLARE_WORK(offering, make_offer);

static void take_offer_away(void)
{
	struct offer *offer;

	cancel_work_sync(&offering);
	offer = xchg(&offered, NULL);
	if (!offer)
		return;
	/* No program writes any more, and so nothing schedules the tasklet again. */
	tasklet_kill(&offer->channel.callback_event);
	device_unregister(&offer->device.device);
}

/* The program's side. */

static void forget(struct direction *way, struct frame *frame)
{
	kfifo_reset(&way->messages);
	frame->at = frame->end = 0;
}

static int stand_in_open(struct inode *inode, struct file *file)
{
	if (test_and_set_bit(0, &is_open))
		return -EBUSY;
	forget(&to_host, &reading);
	forget(&to_guest, &writing);
	schedule_work(&offering);
	return stream_open(inode, file);
}

static int stand_in_release(struct inode *inode, struct file *file)
{
	take_offer_away();
	clear_bit(0, &is_open);
	return 0;
}

static bool next_frame(void)
{
	unsigned int length = take_message(&to_host, reading.bytes + PREFIX_BYTES,
					   MESSAGE_BYTES_MAX);

	if (!length)
		return false;
	put_unaligned_le32(length, reading.bytes);
	reading.at = 0;
	reading.end = PREFIX_BYTES + length;
	return true;
}

static ssize_t stand_in_read(struct file *file, char __user *buffer, size_t count, loff_t *offset)
{
	ssize_t done = -ERESTARTSYS;

	if (mutex_lock_interruptible(&reading.lock))
		return -ERESTARTSYS;
	if (reading.at == reading.end &&
	    wait_event_interruptible(to_host.changed, next_frame()))
		goto out;
	done = min(count, reading.end - reading.at);
	if (copy_to_user(buffer, reading.bytes + reading.at, done))
		done = -EFAULT;
	else
		reading.at += done;
out:
	mutex_unlock(&reading.lock);
	return done;
}

/* How many bytes are missing from the frame, as far as is known; negative: no driver takes it. */
static ssize_t missing_bytes(void)
{
	u32 length;

	if (writing.at < PREFIX_BYTES)
		return PREFIX_BYTES - writing.at;
	length = get_unaligned_le32(writing.bytes);
	if (!length || length > MESSAGE_BYTES_MAX)
		return -EMSGSIZE;
	return PREFIX_BYTES + length - writing.at;
}

static int deliver(void)
{
	struct offer *offer;

	if (wait_event_interruptible(to_guest.changed,
				     put_message(&to_guest, writing.bytes + PREFIX_BYTES,
						 writing.at - PREFIX_BYTES)))
		return -ERESTARTSYS;
	writing.at = 0;
	offer = smp_load_acquire(&offered);
	if (offer)
		tasklet_schedule(&offer->channel.callback_event);
	return 0;
}

static ssize_t write_frames(const char __user *buffer, size_t count)
{
	size_t done = 0;

	while (done < count) {
		ssize_t part = missing_bytes();

		if (part < 0)
			return part;
		part = min_t(size_t, part, count - done);
		if (copy_from_user(writing.bytes + writing.at, buffer + done, part))
			return -EFAULT;
		done += part;
		writing.at += part;
		/* Of a frame whose length was just learned all may be missing. */
		if (writing.at >= PREFIX_BYTES && missing_bytes() == 0) {
			int error = deliver();

			if (error)
				return error;
		}
	}
	return done;
}

static ssize_t stand_in_write(struct file *file, const char __user *buffer, size_t count,
			      loff_t *offset)
{
	ssize_t done;

	if (mutex_lock_interruptible(&writing.lock))
		return -ERESTARTSYS;
	done = write_frames(buffer, count);
	mutex_unlock(&writing.lock);
	return done;
}

static const struct file_operations stand_in_operations = {
	.owner = THIS_MODULE,
	.open = stand_in_open,
	.release = stand_in_release,
	.read = stand_in_read,
	.write = stand_in_write,
	.llseek = no_llseek,
};

static struct miscdevice stand_in = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "vmbus_stand_in",
	.fops = &stand_in_operations,
};

static int __init prepare(struct direction *way, struct frame *frame)
{
	spin_lock_init(&way->lock);
	init_waitqueue_head(&way->changed);
	mutex_init(&frame->lock);
	return kfifo_alloc(&way->messages, ring, GFP_KERNEL);
}

static int __init stand_in_init(void)
{
	int error = prepare(&to_host, &reading);

	if (error)
		return error;
	error = prepare(&to_guest, &writing);
	if (error)
		goto free_to_host;
	error = bus_register(&bus);
	if (error)
		goto free_both;
	error = misc_register(&stand_in);
	if (!error)
		return 0;
	bus_unregister(&bus);
free_both:
	kfifo_free(&to_guest.messages);
free_to_host:
	kfifo_free(&to_host.messages);
	return error;
}
module_init(stand_in_init);

/* No exit: the driver, which has none either, would be left with functions that are gone. */
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Stands in for Hyper-V's bus, with Dynamic Memory's channel and no host");
